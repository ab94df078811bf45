"""The store: every call and every outcome in one SQLite file."""

from __future__ import annotations

from .calls import Calls, Ledger, Opened
from .database import StoreError, store_error
from .runs import Outcome, Runs, Status


class Store(Calls, Runs):
    """One SQLite file, opened by any number of processes of one machine at a time."""


__all__ = ["Ledger", "Opened", "Outcome", "Status", "Store", "StoreError", "store_error"]
