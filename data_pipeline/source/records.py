"""Records put aside on disk: a run over a hundred thousand chains holds those at work alone."""

from __future__ import annotations

import pickle
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from typing import overload

from ..record import Record

#: Bytes of records that stay in memory; all of them go to a file of the temporary folder beyond.
IN_MEMORY = 64 << 20


class Records(Sequence[Record]):
    """Records in a file that nobody else sees; in memory are their places alone."""

    def __init__(self, records: Iterable[Record] = ()):
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - goes with this
        self._ends = array("q", [0])
        for record in records:
            self.append(record)

    def append(self, record: Record) -> None:
        """Add one at the end."""
        self._file.seek(self._ends[-1])
        self._ends.append(self._ends[-1] + self._file.write(pickle.dumps(record)))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        self._file.seek(self._ends[index])
        record: Record = pickle.loads(self._file.read(self._ends[index + 1] - self._ends[index]))
        return record
