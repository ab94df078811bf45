"""Rows that people fill in: CSV, JSON lines, or JSON that somebody else understands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

#: What says yes, and what says no, in lower case.
YES = frozenset(("yes", "y", "true", "1"))
NO = frozenset(("no", "n", "false", "0"))

Rows = Iterable[Mapping[str, Any]]


def write(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], file: Path) -> None:
    """Write ``.csv`` with ``columns``, or else JSON lines."""
    if file.suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, columns)
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
        file.write_text(lines, encoding="utf-8")


def read(file: Path, tasks: Callable[[Any], Rows]) -> Iterator[Mapping[str, Any]]:
    """The rows of ``file``; ``tasks`` reads the value of a ``.json`` file.

    Raises:
        OSError, ValueError, csv.Error: it cannot be read.
    """
    if file.suffix == ".csv":
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield from csv.DictReader(lines)
    elif file.suffix == ".json":
        yield from tasks(json.loads(file.read_text(encoding="utf-8-sig")))
    else:
        for line in file.read_text(encoding="utf-8-sig").split("\n"):
            if line.strip():
                yield json.loads(line)


def answer(value: Any, name: str) -> bool | None:
    """What a cell says; None where it is empty.

    Raises:
        ValueError: neither yes nor no.
    """
    said = str(value or "").strip().lower()
    if said and said not in YES | NO:
        raise ValueError(f"{name} is {said!r}; write yes or no, or leave it empty")
    return said in YES if said else None
