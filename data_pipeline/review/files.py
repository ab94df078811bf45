"""Blocks to be judged, and judgements, in files: Label Studio, Argilla, CSV, JSON lines."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..analyses import label_studio, sheets
from . import argilla
from .blocks import QUESTIONS, Unit

#: What stands in a row; what follows ``text`` is the reviewer's.
COLUMNS = ("item", "block", "question", "before", "text", *QUESTIONS, "comment", "reviewer")

#: The first row of a ``.csv`` says what to write where; it is no block, and may be deleted.
NOTE = {
    "item": "(note)",
    "question": "Judge each row below by itself. Style does not count.",
    **{name: f"yes or no: {asked}" for name, asked in QUESTIONS.items()},
    "comment": "what else is to be said, or nothing",
    "reviewer": "your name; without one it is the name of the file",
}

_CHOICES = """\
  <Header value="{asked}"/>
  <Choices name="{name}" toName="text" choice="single-radio" required="true">
    <Choice value="yes"/>
    <Choice value="no"/>
  </Choices>
"""
CONFIG = (
    '<View>\n  <Text name="question" value="$question"/>\n'
    '  <Text name="before" value="$before"/>\n  <Text name="text" value="$text"/>\n'
    + "".join(_CHOICES.format(name=name, asked=asked) for name, asked in QUESTIONS.items())
    + '  <TextArea name="comment" toName="text" placeholder="comment" rows="2"/>\n</View>\n'
)


class ReviewError(ValueError):
    """A file that cannot be written or used; the message says why."""


@dataclass(frozen=True)
class Review:
    """What one reviewer says of one block; a question that is not answered is missing in
    ``answers``."""

    item: str
    block: int
    reviewer: str
    answers: Mapping[str, bool]
    comment: str = ""

    @property
    def key(self) -> tuple[str, int]:
        return self.item, self.block


def write(units: Sequence[Unit], out: Path) -> list[Path]:
    """Write ``units`` with nothing answered; gives the files written.

    ``.json`` are tasks of Label Studio, with its labelling configuration beside them; a name
    without a suffix is a folder that ``argilla.Dataset.from_disk`` reads; ``.csv`` and ``.jsonl``
    are for a spreadsheet or a script.

    Raises:
        ReviewError: the suffix is none of these, or the file is there already.
    """
    places = label_studio.places(out)
    for path in places:
        if path.exists():
            raise ReviewError(f"{path} is there already; name another than {out}")
    if out.suffix not in (".json", ".csv", ".jsonl", ""):
        raise ReviewError(
            f"{out}: name it .json for Label Studio, without a suffix for Argilla, .csv or .jsonl"
        )
    try:
        return _write(units, out)
    except BaseException:  # a part of it would bar the next try
        if out.is_dir():
            shutil.rmtree(out, ignore_errors=True)
        for path in places:
            with suppress(OSError):
                path.unlink()
        raise


def _write(units: Sequence[Unit], out: Path) -> list[Path]:
    if out.suffix == "":
        return argilla.write(units, out)
    rows = [_row(unit) for unit in units]
    if out.suffix == ".json":
        return label_studio.write(rows, out, CONFIG)
    sheets.write([NOTE, *rows] if out.suffix == ".csv" else rows, COLUMNS, out)
    return [out]


def _row(unit: Unit) -> dict[str, Any]:
    given = {"item": unit.item, "block": unit.block, "question": unit.question}
    shown = {"before": unit.before, "text": unit.text}
    return {**given, **shown, **dict.fromkeys(QUESTIONS, ""), "comment": "", "reviewer": ""}


def read(paths: Sequence[Path]) -> list[Review]:
    """The judgements of files as people gave them back, in any of the formats.

    The reviewer is the row's, else the name of the file, with its folder where two have the same,
    so that a copy of an export per person will do. Where one has answered a question of a block
    more than once, the last counts.

    Raises:
        ReviewError: a file that is none, or an answer that is neither yes nor no.
    """
    found: dict[tuple[str, int, str], Review] = {}
    for path, name in zip(paths, sheets.people(paths), strict=True):
        reviews = list(_reviews(path, name))
        if not reviews:
            raise ReviewError(f"{path} holds no block")
        for one in reviews:
            key = (one.item, one.block, one.reviewer)
            if (before := found.get(key)) is not None:
                answers = {**before.answers, **one.answers}
                one = replace(one, answers=answers, comment=one.comment or before.comment)
            found[key] = one
    return list(found.values())


def _reviews(path: Path, name: str) -> Iterator[Review]:
    texts: dict[tuple[str, int], tuple[int, str]] = {}
    try:
        for number, row in enumerate(_rows(path), start=1):
            try:
                if _is_block(row):
                    review = _review(row, name)
                    _same_text(texts, number, review, row)
                    yield review
            except (KeyError, ValueError) as error:
                what = f"no column {error}" if isinstance(error, KeyError) else str(error)
                raise ReviewError(f"{path}: row {number}: {what}") from error
    except ReviewError:
        raise
    except OSError as error:
        raise ReviewError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ReviewError(f"{path}: {error}") from error


def _rows(path: Path) -> Iterator[Any]:
    return sheets.read(path / argilla.RECORDS if path.is_dir() else path, _tasks)


def _tasks(value: Any) -> Iterator[Mapping[str, Any]]:
    return argilla.read(value) if argilla.knows(value) else label_studio.read(value)


def _is_block(row: Any) -> bool:
    """Not so of the note, nor of a row of a sheet that is empty."""
    if not isinstance(row, Mapping):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    empty = all(value is None or not str(value).strip() for value in row.values())
    return not empty and row.get("item") != NOTE["item"]


def _same_text(
    texts: dict[tuple[str, int], tuple[int, str]], number: int, one: Review, row: Mapping[str, Any]
) -> None:
    text = "".join(str(row.get("text") or "").split())
    before, other = texts.setdefault(one.key, (number, text))
    if text != other:
        raise ValueError(
            f"block {one.block} of {one.item!r} is another text than in row {before}; give the "
            "rows of the corpus ids of their own and export again"
        )


def _review(row: Mapping[str, Any], reviewer: str) -> Review:
    item, said = row["item"], {name: sheets.answer(row.get(name), name) for name in QUESTIONS}
    if item is None or not str(item).strip():
        raise ValueError("item is empty; it holds the id as it was exported")
    return Review(
        item=str(item),
        block=_number(row["block"]),
        reviewer=str(row.get("reviewer") or row.get("annotator") or "").strip() or reviewer,
        answers={name: yes for name, yes in said.items() if yes is not None},
        comment=str(row.get("comment") or "").strip(),
    )


def _number(block: Any) -> int:
    """As spreadsheets write it, too: ``1.0``."""
    if isinstance(block, bool) or not re.fullmatch(r"\s*0*[1-9]\d{0,8}(?:\.0*)?\s*", str(block)):
        raise ValueError(f"block is {block!r}; it holds the number as it was exported, from 1")
    return int(float(str(block)))
