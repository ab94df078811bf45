"""The store: every call and every outcome in one SQLite file."""

from __future__ import annotations

from .batches import Batches, Filing, InBatch, OpenBatch
from .calls import Ledger, Opened
from .database import StoreError, store_error
from .runs import Outcome, Runs, Status


class Store(Batches, Runs):
    """One SQLite file, opened by any number of processes of one machine at a time."""


__all__ = [
    "Filing",
    "InBatch",
    "Ledger",
    "OpenBatch",
    "Opened",
    "Outcome",
    "Status",
    "Store",
    "StoreError",
    "store_error",
]
