"""Blocks to be judged, and judgements, in files: Label Studio, Argilla, CSV, JSON lines."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..analyses import label_studio, sheets
from . import argilla
from .blocks import QUESTIONS, Unit

#: What stands in a row; what follows ``text`` is the reviewer's.
COLUMNS = ("item", "block", "question", "before", "text", *QUESTIONS, "comment", "reviewer")

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
    if out.exists():
        raise ReviewError(f"{out} is there already and may hold judgements; name another")
    rows = [_row(unit) for unit in units]
    if out.suffix == ".json":
        return label_studio.write(rows, out, CONFIG)
    if out.suffix in (".csv", ".jsonl"):
        sheets.write(rows, COLUMNS, out)
        return [out]
    if out.suffix == "":
        return argilla.write(units, out)
    raise ReviewError(
        f"{out}: name it .json for Label Studio, without a suffix for Argilla, .csv or .jsonl"
    )


def _row(unit: Unit) -> dict[str, Any]:
    given = {"item": unit.item, "block": unit.block, "question": unit.question}
    shown = {"before": unit.before, "text": unit.text}
    return {**given, **shown, **dict.fromkeys(QUESTIONS, ""), "comment": "", "reviewer": ""}


def read(paths: Sequence[Path]) -> list[Review]:
    """The judgements of files as people gave them back, in any of the formats.

    The reviewer is the row's, else the name of the file, so that a copy of an export per person
    will do. Where one has judged a block more than once, the last counts.

    Raises:
        ReviewError: a file that is none, or an answer that is neither yes nor no.
    """
    found: dict[tuple[str, int, str], Review] = {}
    for path in paths:
        for one in _reviews(path):
            found[one.item, one.block, one.reviewer] = one
    if not found:
        raise ReviewError("the files hold no block")
    return list(found.values())


def _reviews(path: Path) -> Iterator[Review]:
    try:
        for number, row in enumerate(_rows(path), start=1):
            try:
                yield _review(row, path.stem)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                what = f"no column {error}" if isinstance(error, KeyError) else str(error)
                raise ReviewError(f"{path}: row {number}: {what}") from error
    except ReviewError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise ReviewError(f"{path}: {error}") from error


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    return sheets.read(path / argilla.RECORDS if path.is_dir() else path, _tasks)


def _tasks(value: Any) -> Iterator[Mapping[str, Any]]:
    return argilla.read(value) if argilla.knows(value) else label_studio.read(value)


def _review(row: Mapping[str, Any], reviewer: str) -> Review:
    said = {name: sheets.answer(row.get(name), name) for name in QUESTIONS}
    return Review(
        item=str(row["item"]),
        block=int(row["block"]),
        reviewer=str(row.get("reviewer") or row.get("annotator") or "").strip() or reviewer,
        answers={name: yes for name, yes in said.items() if yes is not None},
        comment=str(row.get("comment") or "").strip(),
    )
