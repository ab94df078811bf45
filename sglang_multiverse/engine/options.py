"""Options of the serving side, for a server and for one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..sequencer import Limits


class OptionError(ValueError):
    """An option has a value that cannot be served; the message names it."""


@dataclass(frozen=True)
class EngineOptions:
    """Bounds of fork and join. None means unbounded.

    Attributes:
        enabled: False decodes sequentially, as stock SGLang does.
        max_branches: most paths of one block; a goal with more does not fork.
        max_depth: most blocks around one token; a deeper goal does not fork.
        max_live_rows: most paths of one request that decode at the same time; the others wait
            their turn, with the same text and the same KV.
        max_critical_path: most generated tokens on the longest chain of visible tokens; the
            request ends there with finish reason ``length``.
    """

    enabled: bool = True
    max_branches: int | None = 16
    max_depth: int | None = 4
    max_live_rows: int | None = None
    max_critical_path: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise OptionError(f"multiverse.enabled must be true or false, got {self.enabled!r}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"multiverse.{name} must be an integer >= {least}, got {value!r}")

    @property
    def limits(self) -> Limits:
        return Limits(max_branches=self.max_branches, max_depth=self.max_depth)

    def for_request(self, custom_params: Mapping[str, Any] | None) -> EngineOptions:
        """These options narrowed by a request's ``custom_params["multiverse"]``.

        The value is ``false`` (decode sequentially) or an object with any of the fields. A
        request may tighten the server's bounds on branches, depth and rows, never widen them.

        Raises:
            OptionError: unknown field or unusable value.
        """
        given = (custom_params or {}).get("multiverse")
        if given is None or given is True:
            return self
        if given is False:
            return replace(self, enabled=False)
        if not isinstance(given, Mapping):
            raise OptionError(f"custom_params.multiverse must be an object or false, got {given!r}")
        known = {field.name for field in fields(self)}
        unknown = sorted(set(given) - known)
        if unknown:
            raise OptionError(
                f"custom_params.multiverse has unknown field(s) {', '.join(unknown)}; "
                f"known: {', '.join(sorted(known))}"
            )
        asked = EngineOptions(**{"max_branches": None, "max_depth": None, **given})
        return EngineOptions(
            enabled=self.enabled and asked.enabled,
            **{name: _tighter(getattr(self, name), getattr(asked, name)) for name in _LEAST},
        )


_LEAST = {"max_branches": 0, "max_depth": 0, "max_live_rows": 1, "max_critical_path": 1}


def _tighter(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)
