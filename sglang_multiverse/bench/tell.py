"""What a benchmark says while it runs: one line at a time."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[str], None]
