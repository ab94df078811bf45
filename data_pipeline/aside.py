"""Values put aside on disk: a run over a hundred thousand chains holds those at work alone, and an
export reads its rows again in another order."""

from __future__ import annotations

import pickle
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar, overload

Value = TypeVar("Value")
#: Bytes that stay in memory before all of them go to a file.
IN_MEMORY = 64 << 20


class Aside(Sequence[Value], Generic[Value]):
    """Values in a file that nobody else sees; in memory are their places alone.

    Args:
        folder: where the file is made; the system's folder for such without one.
        in_memory: bytes that make no file yet.
    """

    def __init__(
        self,
        values: Iterable[Value] = (),
        *,
        folder: Path | None = None,
        in_memory: int = IN_MEMORY,
    ):
        self._file = tempfile.SpooledTemporaryFile(in_memory, dir=folder)  # noqa: SIM115 - see close
        self._ends = array("q", [0])
        for value in values:
            self.append(value)

    def append(self, value: Value) -> None:
        """Add one at the end.

        Raises:
            OSError: the folder takes no more.
        """
        self._file.seek(self._ends[-1])
        self._ends.append(self._ends[-1] + self._file.write(pickle.dumps(value)))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> list[Value]: ...
    def __getitem__(self, index: int | slice) -> Value | list[Value]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        self._file.seek(self._ends[index])
        value: Value = pickle.loads(self._file.read(self._ends[index + 1] - self._ends[index]))
        return value

    def close(self) -> None:
        """Give the disk back; without it that is done when this goes."""
        self._file.close()

    def __enter__(self) -> Aside[Value]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
