"""What ``multiverse curate check`` reads of a row: a text and what it is held to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
