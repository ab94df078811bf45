"""Instances of implicit parallelism to a human and back: JSON lines, CSV, Label Studio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import label_studio, sheets
from .agreement import Judgement
from .implicit import LABELS, Instance, Listed
from .rows import Row

#: What stands in a file; the last three are the human's.
COLUMNS = (
    "trace",
    "instance",
    "traces",
    "start",
    "end",
    "branches",
    "llm_label",
    "question",
    "excerpt",
    "is_instance",
    "human_label",
    "annotator",
)
#: Characters of the chain that are shown from where a branch begins, and before it.
_SHOWN, _BEFORE = 280, 80


class VerificationError(ValueError):
    """A file of judgements that cannot be used."""


def export(lists: Mapping[str, Listed], rows: Mapping[str, Row], file: Path) -> list[Path]:
    """Write every instance with empty columns for the human; gives the files written.

    ``.csv`` and ``.jsonl`` are for a spreadsheet or a script, ``.json`` are tasks of Label
    Studio, with its labelling configuration beside them.

    Raises:
        VerificationError: the suffix is none of these, or the file is there already.
    """
    for path in label_studio.places(file):
        if path.exists():
            raise VerificationError(f"{path} is there already; name another than {file}")
    written = [
        _row(rows[trace], one, len(lists))
        for trace, listed in lists.items()
        for one in listed.instances
    ]
    if file.suffix == ".json":
        return label_studio.write(written, file)
    if file.suffix not in (".csv", ".jsonl"):
        raise VerificationError(f"{file}: name it .csv, .jsonl, or .json for Label Studio")
    sheets.write(written, COLUMNS, file)
    return [file]


def _row(row: Row, instance: Instance, traces: int) -> dict[str, Any]:
    start, end = instance.span
    return {
        "trace": row.id,
        "instance": instance.number,
        "traces": traces,
        "start": start,
        "end": end,
        "branches": len(instance.branches),
        "llm_label": instance.label,
        "question": row.question or "",
        "excerpt": excerpt(row.text, instance),
        "is_instance": "",
        "human_label": "",
        "annotator": "",
    }


def excerpt(chain: str, instance: Instance) -> str:
    """How every branch begins, with a little of what stands before it."""
    parts = []
    for number, one in enumerate(instance.branches, start=1):
        before = chain[max(one.start - _BEFORE, 0) : one.start]
        shown = chain[one.start : max(one.start + _SHOWN, one.end)]
        parts.append(f"…{before}[{number}▶ {shown}…")
    return "\n---\n".join(parts)


def import_judgements(files: list[Path]) -> list[Judgement]:
    """The judgements of ``files``; rows that nobody has judged come with ``right`` None.

    The annotator is the row's, else the name of the file, with its folder where two have the same,
    so that a copy of an export per person will do.

    Raises:
        VerificationError: a file that is none, or a value that says neither yes nor no.
    """
    people = sheets.people(files)
    found = [one for pair in zip(files, people, strict=True) for one in _judgements(*pair)]
    counts = {one.traces for one in found}
    if not found:
        raise VerificationError("the files hold no instance")
    if len(counts) > 1:
        raise VerificationError(
            f"the files speak of {sorted(counts)} traces: they come of different exports"
        )
    return found


def _judgements(file: Path, person: str) -> Iterator[Judgement]:
    try:
        for number, row in enumerate(sheets.read(file, label_studio.read), start=1):
            try:
                yield _judgement(row, person)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                what = f"no column {error}" if isinstance(error, KeyError) else str(error)
                raise VerificationError(f"{file}: row {number}: {what}") from error
    except VerificationError:
        raise
    except (OSError, ValueError) as error:
        raise VerificationError(f"{file}: {error}") from error


def _judgement(row: Mapping[str, Any], annotator: str) -> Judgement:
    right = sheets.answer(row["is_instance"], "is_instance")
    label = str(row["human_label"] or "").strip().lower()
    if label and label not in LABELS:
        raise ValueError(f"human_label is {label!r}; write {' or '.join(LABELS)}")
    return Judgement(
        trace=str(row["trace"]),
        instance=int(row["instance"]),
        span=(int(row["start"]), int(row["end"])),
        branches=int(row["branches"]),
        traces=int(row["traces"]),
        llm_label=str(row["llm_label"]),
        annotator=str(row["annotator"] or "").strip() or annotator,
        right=right,
        label=label,
    )
