"""Rows put aside on disk, to be read again in another order."""

from __future__ import annotations

import json
import math
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from .mixture import Example


class Spool(Sequence[Example]):
    """Examples in a file of ``folder`` that nobody else sees; in memory are their places alone."""

    def __init__(self, folder: Path):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._ends = array("q", [0])

    def put(self, example: Example) -> None:
        """Add one at the end."""
        fields = [example.id, example.question, example.parallel, example.sequential]
        line = json.dumps(fields).encode()
        self._file.seek(self._ends[-1])
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        start, end = self._ends[index], self._ends[index + 1]
        self._file.seek(start)
        return Example(*json.loads(self._file.read(end - start)))

    def close(self) -> None:
        """Give the disk back."""
        self._file.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Measures(Sequence[dict[str, Any]]):
    """The numbers of rows without their texts, some bytes each: what statistics and figures are
    made of. A number that a row lacks is nan."""

    def __init__(self, columns: Sequence[str]):
        self._columns = {name: array("d") for name in columns}

    def put(self, row: dict[str, Any]) -> None:
        """Add those of ``row``."""
        for name, values in self._columns.items():
            values.append(math.nan if row[name] is None else row[name])

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return {name: values[index] for name, values in self._columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))
