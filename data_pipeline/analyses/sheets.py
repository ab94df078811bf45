"""Rows that people fill in: CSV, JSON lines, or JSON that somebody else understands."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

#: What says yes, and what says no, in lower case.
YES = frozenset(("yes", "y", "true", "1"))
NO = frozenset(("no", "n", "false", "0"))

#: Characters of a cell that are read: more than any text has.
_LONGEST = 2**31 - 1

Rows = Iterable[Mapping[str, Any]]


def write(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], file: Path) -> None:
    """Write ``.csv`` with ``columns``, or else JSON lines."""
    if file.suffix.lower() == ".csv":
        with file.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, columns)
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
        file.write_text(lines, encoding="utf-8")


def read(file: Path, tasks: Callable[[Any], Rows]) -> Iterator[Any]:
    """The rows of ``file``; ``tasks`` reads the value of a ``.json`` file. What JSON lines hold is
    given as it is. A ``.csv`` may have commas, semicolons or tabs, in UTF-8 or UTF-16.

    Raises:
        OSError, ValueError: it cannot be read; the message says where and what to do.
    """
    content = _text(file)
    if file.suffix.lower() == ".csv":
        yield from _cells(content)
    elif file.suffix.lower() == ".json":
        yield from tasks(_value(content, "the file"))
    else:
        for number, line in enumerate(content.split("\n"), start=1):
            if line.strip():
                yield _value(line, f"line {number}")


#: Names for whose file it is; the first that tells files apart is taken.
_NAMES: tuple[Callable[[Path], str], ...] = (
    lambda path: path.stem,
    lambda path: f"{path.parent.name}/{path.stem}",
    lambda path: f"{path.parent.name}/{path.name}",
    str,
)


def people(files: Sequence[Path]) -> list[str]:
    """Who filled in each of ``files``, by its name, with its folder where two have the same."""
    whole = [file.resolve() for file in files]
    names = []
    for one in whole:
        alike = {other for other in whole if other.stem == one.stem}
        name = next(name for name in _NAMES if len({*map(name, alike)}) == len(alike))
        names.append(name(one))
    return names


def _text(file: Path) -> str:
    raw = file.read_bytes()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        encoding = "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        what = f"not {encoding.removesuffix('-sig').upper()}: {error.reason} at byte {error.start}"
        raise ValueError(f"{what}; save it as UTF-8 (in Excel: CSV UTF-8)") from error


def _value(content: str, where: str) -> Any:
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deep to be read") from error
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def _cells(content: str) -> Iterator[dict[str, str]]:
    csv.field_size_limit(_LONGEST)
    head = content.split("\n", 1)[0]
    lines = io.StringIO(content, newline="")
    reader = csv.DictReader(lines, delimiter=max(",;\t", key=head.count), strict=True)
    try:
        names = reader.fieldnames or []
        if twice := next((name for name in names if name and names.count(name) > 1), None):
            raise ValueError(f"two columns are called {twice!r}; rename one")
        for number, row in enumerate(reader, start=1):
            if None in row:
                raise ValueError(
                    f"row {number} has more cells than the first line names columns; "
                    "a text with a comma, semicolon or tab stands in quotes"
                )
            yield row
    except csv.Error as error:
        line = reader.reader.line_num
        raise ValueError(
            f"line {line}: {error}; a quote that is opened must be closed, and doubled in a text"
        ) from error


def answer(value: Any, name: str) -> bool | None:
    """What a cell says; None where it is empty.

    Raises:
        ValueError: neither yes nor no.
    """
    said = "" if value is None else str(value).strip().lower().removesuffix(".0")
    if said and said not in YES | NO:
        raise ValueError(f"{name} is {said!r}; write yes or no, or leave it empty")
    return said in YES if said else None
