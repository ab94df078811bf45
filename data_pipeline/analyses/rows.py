"""Rows of a corpus and the columns an analysis needs. A bad row is reported, never fatal."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sglang_multiverse.corpus import QUESTION as QUESTIONS
from sglang_multiverse.corpus import BadRow, Fields, find, is_chat, name_of, rows, text_of, written

from ..record import item_id


@dataclass(frozen=True)
class Row:
    """One row. ``question`` and ``messages`` (a conversational prompt) are there if the row has
    them; ``id`` is its own, else the hash of its question, else its number."""

    id: str
    text: str
    question: str | None = None
    messages: tuple[Mapping[str, str], ...] = ()


def read(
    file: str,
    columns: Sequence[str],
    *,
    column: str | None = None,
    question_column: str | None = None,
) -> Iterator[Row | BadRow]:
    """The rows of ``file`` in order, see :func:`sglang_multiverse.corpus.rows`.

    Args:
        columns: where the text may be; ``column`` names the one that it is.

    Raises:
        CorpusError: the file cannot be read at all.
    """
    for one in rows(file):
        if isinstance(one, BadRow):
            yield one
            continue
        number, row = one
        try:
            yield _row(number, row, (column,) if column else columns, question_column)
        except LookupError as error:
            yield BadRow(name_of(file), number, str(error))


def distinct(row: Row, known: Container[str]) -> Row:
    """``row``, its id numbered where ``known`` has it: several chains may answer one question."""
    number, key = 1, row.id
    while key in known:
        number += 1
        key = f"{row.id}#{number}"
    return replace(row, id=key)


def _row(number: int, row: Fields, columns: Sequence[str], question_column: str | None) -> Row:
    name = find(row, columns, "--text")
    text = text_of(row, (name,))
    if not text.strip():
        raise LookupError(f"field {name!r} holds no text")
    asked = (question_column,) if question_column else QUESTIONS
    question = next((row[one] for one in asked if one != name and row.get(one) is not None), None)
    if question_column and question is None:
        raise LookupError(f"no field {question_column!r}, named by --question")
    messages = tuple(question) if is_chat(question) else ()
    said = written(question)
    key = row.get("id")
    if key is None:
        key = item_id(said) if said else number
    return Row(written(str(key)) or "", text, said, messages)
