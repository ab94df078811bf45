"""The coordinator of this process, for the hooks that ask for it.

Apart from the hooks that set it up, so that no room needs the scheduling one for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .scheduling.coordinator import Coordinator

_active: Coordinator | None = None


def coordinator() -> Coordinator | None:
    """None until this process has set up a scheduler with the plugin."""
    return _active


def arm(active: Coordinator) -> None:
    """Make ``active`` the coordinator of this process."""
    global _active
    _active = active
