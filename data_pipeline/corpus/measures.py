"""Numbers of rows, without their texts."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, overload


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
