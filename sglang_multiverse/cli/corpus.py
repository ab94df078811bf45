"""What ``multiverse curate check`` reads of a row: a text and what it is held to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import typer

from .. import corpus
from ..corpus import BadRow
from ..text import encodable

SOURCE_FIELDS = corpus.CHAIN[:1]
ANSWER_FIELDS = corpus.ANSWER
#: Of a row that was exported: what its run has held it to, or nothing where it knew of none.
EXPORTED_ANSWER = ("deepseek_attempt",)


@dataclass(frozen=True)
class Item:
    """One text of a corpus, with what it is to be held to."""

    id: str
    text: str
    source: str | None
    answer: str | None


@dataclass(frozen=True)
class Fields:
    """Names of the fields to read; None looks for the known ones."""

    text: str | None = None
    source: str | None = None
    answer: str | None = None


class Told:
    """Says of rows that cannot be used why, on standard error: in full the first time, and at the
    end of how many more, and which."""

    def __init__(self) -> None:
        self._more: dict[tuple[str, str], list[int]] = defaultdict(list)

    def __call__(self, bad: BadRow) -> None:
        if (bad.source, bad.reason) not in self._more:
            typer.echo(f"error: {bad}", err=True)
            self._more[bad.source, bad.reason] = []
        else:
            self._more[bad.source, bad.reason].append(bad.row)

    def end(self) -> None:
        """Say what was not said row by row."""
        for (source, reason), rows in self._more.items():
            if rows:
                first = ", ".join(map(str, rows[:10])) + (", …" if len(rows) > 10 else "")
                what = f"{len(rows):,} more, {first}" if len(rows) > 1 else f"row {first} too"
                typer.echo(f"error: {source}: {what}: {reason}", err=True)


def read_corpus(path: str, fields: Fields) -> Iterator[Item | BadRow]:
    """The items of ``path`` (``-`` is standard input) in file order, read as they are needed.

    Raises:
        CorpusError: the file cannot be read.
    """
    for one in corpus.rows(path):
        if isinstance(one, BadRow):
            yield one
            continue
        number, row = one
        try:
            yield _item(number, row, fields)
        except LookupError as error:
            yield BadRow(corpus.name_of(path), number, str(error))


def _item(number: int, row: corpus.Fields, fields: Fields) -> Item:
    text = corpus.text_of(row, (fields.text,) if fields.text else corpus.TEXT)
    if not text.strip():
        raise LookupError("the text is empty; leave the row out, or name another field by --text")
    given: list[str | None] = []
    exported = all(name in row for name in corpus.EXPORTED)
    for named, known, option in (
        (fields.source, SOURCE_FIELDS, "--source"),
        (fields.answer, EXPORTED_ANSWER if exported else ANSWER_FIELDS, "--answer"),
    ):
        if named is not None and named not in row:
            raise LookupError(f"no field {named!r}; name another by {option}, or leave it out")
        found = named or next((field for field in known if field in row), None)
        value = row[found] if found else None
        given.append(encodable(str(value)) if value is not None else None)
    return Item(corpus.identity(row, number), text, given[0], given[1])
