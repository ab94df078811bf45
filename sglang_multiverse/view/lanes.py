"""Lanes read from events: one for the trunk and one for each path. ``timeline.js`` is its twin.

Runs of text that belong together become one :class:`Piece`. A piece ends where a block opens
(``<Parallel>``), where a block ends (``</Parallel>``), at a fork and at a join, so that a server's
events of single tokens give the pieces that a finished text gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .events import Event

Role = Literal["text", "goal", "conclusion"]


class EventError(ValueError):
    """Events that make no timeline; ``str()`` names the event and what is wrong with it."""


@dataclass
class Piece:
    """A run of tokens of one lane. ``begun`` and ``ended`` are seconds, None where not known."""

    path: str
    position: int
    tokens: int
    text: str
    role: Role = "text"
    begun: float | None = None
    ended: float | None = None

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.position + self.tokens


@dataclass
class Fork:
    """A fork, its lanes, and its join; ``joined`` is None while paths are open."""

    position: int
    lanes: list[Lane]
    time: float | None = None
    joined: int | None = None
    joined_time: float | None = None

    @property
    def end(self) -> int:
        """The position of the join, or the furthest a path has come."""
        if self.joined is not None:
            return self.joined
        return max((lane.end for lane in self.lanes), default=self.position)


@dataclass
class Lane:
    """The trunk (path ``""``) or one path.

    Attributes:
        position: of its first token.
        end: position after its last token, that of paths inside it included.
        items: its pieces and forks, in text order.
        tokens: its tokens, those of paths inside it included.
        critical: whether the critical path runs through it.
    """

    path: str
    label: str
    position: int
    index: int = 0  # among its siblings
    parent: Lane | None = None
    end: int = 0
    closed: bool = False
    items: list[Piece | Fork] = field(default_factory=list)
    tokens: int = 0
    critical: bool = False
    clock: float | None = None

    @property
    def pieces(self) -> list[Piece]:
        return [item for item in self.items if isinstance(item, Piece)]

    @property
    def forks(self) -> list[Fork]:
        return [item for item in self.items if isinstance(item, Fork)]

    @property
    def depth(self) -> int:
        """0 for the trunk, 1 for a path of an outermost block."""
        return (self.path.count(".") + 1) // 2 if self.path else 0


class Timeline:
    """All lanes, in the order they came to be: a parent before its children.

    Raises:
        EventError: an event that no server and no finished text gives.
    """

    def __init__(self, events: Sequence[Event] = ()):
        self.lanes: list[Lane] = [Lane("", "", 0)]
        self.figures: dict[str, Any] = {}
        self.finish_reason: str | None = None
        self._by_path = {"": self.lanes[0]}
        self._started = False
        for number, event in enumerate(events, start=1):
            try:
                self._feed(event)
            except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
                raise EventError(f"event {number} is not usable: {error!r}") from error
        self._measure()

    @property
    def trunk(self) -> Lane:
        return self.lanes[0]

    @property
    def base(self) -> int:
        """The position of the first token; over 0 where a prompt stood before it."""
        return self.trunk.position

    @property
    def tokens(self) -> int:
        return self.trunk.tokens

    @property
    def critical_path(self) -> int:
        return self.trunk.end - self.base

    @property
    def timed(self) -> bool:
        return any(piece.ended is not None for lane in self.lanes for piece in lane.pieces)

    @property
    def forks(self) -> int:
        return sum(len(lane.forks) for lane in self.lanes)

    @property
    def depth(self) -> int:
        return max(lane.depth for lane in self.lanes)

    def in_text_order(self) -> Iterator[Piece]:
        """Every piece, paths of a block one after another."""
        work: list[Piece | Fork | Lane] = [self.trunk]
        while work:
            one = work.pop()
            if isinstance(one, Piece):
                yield one
            else:
                work += reversed(one.items if isinstance(one, Lane) else one.lanes)

    def _feed(self, event: Event) -> None:
        kind, lane = event["kind"], self._by_path[event["path"]]
        time = event.get("t")
        time = None if time is None else float(time)
        position = int(event["position"])
        if not self._started:
            self._started = True
            lane.position, lane.clock = position, time
        if kind == "text":
            self._text(lane, position, int(event["tokens"]), str(event["text"]), time)
        elif kind == "fork":
            self._fork(lane, position, event["paths"], time)
        elif kind == "join":
            fork = lane.forks[-1] if lane.forks else None
            if fork is None or fork.joined is not None:
                raise ValueError(f"{lane.path or 'the trunk'} joins nothing")
            fork.joined, fork.joined_time = position, time
            lane.clock = time
        elif kind == "close":
            lane.closed = True
        elif kind == "end":
            figures = event.get("figures")
            self.figures = dict(figures) if isinstance(figures, dict) else {}
            reason = event.get("finish_reason")
            self.finish_reason = None if reason is None else str(reason)
        else:
            raise ValueError(f"no kind {kind!r}")

    def _text(self, lane: Lane, position: int, tokens: int, text: str, time: float | None) -> None:
        if tokens < 0:
            raise ValueError(f"{tokens} tokens")
        last = lane.items[-1] if lane.items else None
        if isinstance(last, Piece) and (not tokens or _goes_on(last, position, text)):
            last.tokens += tokens
            last.text += text
            last.ended = time
        else:
            role: Role = "conclusion" if isinstance(last, Fork) else "text"
            lane.items.append(Piece(lane.path, position, tokens, text, role, lane.clock, time))
        lane.clock = time

    def _fork(self, lane: Lane, position: int, paths: Any, time: float | None) -> None:
        last = lane.items[-1] if lane.items else None
        if isinstance(last, Piece) and _opens_block(last.text):
            last.role = "goal"
        elif isinstance(last, Fork) and last.joined is None:
            raise ValueError(f"{lane.path or 'the trunk'} forks twice")
        lanes = []
        for index, named in enumerate(paths):
            path = str(named["path"])
            if path in self._by_path:
                raise ValueError(f"path {path} is there already")
            label = str(named.get("label", ""))
            one = Lane(path, label, position, index=index, parent=lane, clock=time)
            lanes.append(one)
            self._by_path[path] = one
        self.lanes += lanes
        lane.items.append(Fork(position, lanes, time))

    def _measure(self) -> None:
        """Ends and tokens from the innermost lane out, the critical path from the trunk in."""
        for lane in reversed(self.lanes):
            lane.tokens = sum(piece.tokens for piece in lane.pieces)
            lane.tokens += sum(inner.tokens for fork in lane.forks for inner in fork.lanes)
            ends = [piece.end for piece in lane.pieces] + [fork.end for fork in lane.forks]
            lane.end = max(ends, default=lane.position)
        self.trunk.critical = True
        for lane in self.lanes:
            for fork in lane.forks if lane.critical else ():
                if fork.lanes:
                    max(fork.lanes, key=lambda one: one.end).critical = True


def _goes_on(last: Piece, position: int, text: str) -> bool:
    return (
        position == last.end
        and not _opens_block(text)
        and not last.text.rstrip().endswith("</Parallel>")
    )


def _opens_block(text: str) -> bool:
    return text.lstrip().startswith("<Parallel>")


__all__ = ["EventError", "Fork", "Lane", "Piece", "Role", "Timeline"]
