"""Options of the serving side, for a server and for one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..layout import check_share_every
from ..sequencer import Limits
from .guard import MAX_COUNTED
from .policy import Policy

#: The depth of nesting that the tests run; no option lifts it.
MOST_DEPTH = 64
STRUCTURE = ("assistant", "all", "none")


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
        policy: when waiting paths start, ``eager``, ``cap:N`` or ``load:N``
            (:class:`~sglang_multiverse.engine.policy.Policy`); the server's alone.
        tag_guard: mask the logits of tags where the grammar does not allow them.
        structure: where in a prompt tags are structure: in an ``assistant``'s turns of the chat
            template, in ``all`` of it, or in ``none``; elsewhere they are words. A tokenizer
            without a template knows no turns: there ``assistant`` means ``all``.
        events: tell what happens to each path as it happens, beside the text.
        share_every: own tokens after which the paths of a block see one another's, as in
            :func:`~sglang_multiverse.layout.layout`; the server's alone. Paths then hold no blocks.
    """

    enabled: bool = True
    max_branches: int | None = 16
    max_depth: int | None = 4
    max_live_rows: int | None = None
    max_critical_path: int | None = None
    policy: str = "eager"
    tag_guard: bool = False
    structure: str = "assistant"
    events: bool = False
    share_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("enabled", "tag_guard", "events"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(
                    f"multiverse.{name} must be true or false, got {getattr(self, name)!r}"
                )
        if self.structure not in STRUCTURE:
            raise OptionError(
                f"multiverse.structure must be one of {', '.join(STRUCTURE)}, "
                f"got {self.structure!r}"
            )
        try:
            Policy.parse(self.policy)
        except ValueError as error:
            raise OptionError(f"multiverse.policy: {error}") from error
        try:
            check_share_every(self.share_every)
        except ValueError as error:
            raise OptionError(f"multiverse.{error}") from error
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"multiverse.{name} must be an integer >= {least}, got {value!r}")
        if self.tag_guard and (self.max_branches or 0) > MAX_COUNTED:
            raise OptionError(
                f"multiverse.tag_guard counts up to {MAX_COUNTED} outlines, and max_branches is "
                f"{self.max_branches}; lower it, or leave one of them out"
            )

    @property
    def limits(self) -> Limits:
        """What decides whether a goal forks; a depth without a bound has the one that is tested.

        Paths that share hold no blocks: goals in them are declined.
        """
        most = MOST_DEPTH if self.share_every is None else 1
        depth = most if self.max_depth is None else min(self.max_depth, most)
        return Limits(max_branches=self.max_branches, max_depth=depth)

    def for_request(self, custom_params: Any) -> EngineOptions:
        """These options narrowed by a request's ``custom_params["multiverse"]``.

        The value is ``false`` (decode sequentially) or an object with any of the fields. A
        request may tighten the server's bounds on branches, depth and rows, never widen them; it
        may switch the tag guard and events on or off; policy and sharing are the server's.

        Raises:
            OptionError: unknown field or unusable value.
        """
        if not isinstance(custom_params, Mapping):
            return self  # somebody else's: stock SGLang takes anything here
        given = custom_params.get("multiverse")
        if given is None or given is True:
            return self
        if given is False:
            return replace(self, enabled=False)
        if not isinstance(given, Mapping):
            raise OptionError(f"custom_params.multiverse must be an object or false, got {given!r}")
        known = {field.name for field in fields(self)} - {"policy", "share_every"}
        unknown = sorted(set(given) - known)
        if unknown:
            raise OptionError(
                f"custom_params.multiverse has unknown field(s) {', '.join(unknown)}; "
                f"known: {', '.join(sorted(known))}"
            )
        given = {k: None if v == "none" and k in _LEAST else v for k, v in given.items()}
        # Checked alone first, so that a message names what the request said.
        asked = EngineOptions(
            **{
                "max_branches": None,
                "max_depth": None,
                "tag_guard": self.tag_guard,
                "structure": self.structure,
                "events": self.events,
                **given,
            }
        )
        bounds: dict[str, Any] = {
            name: _tighter(getattr(self, name), getattr(asked, name)) for name in _LEAST
        }
        return replace(
            self,
            enabled=self.enabled and asked.enabled,
            tag_guard=asked.tag_guard,
            structure=asked.structure,
            events=asked.events,
            **bounds,
        )


_LEAST = {"max_branches": 0, "max_depth": 0, "max_live_rows": 1, "max_critical_path": 1}


def _tighter(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)
