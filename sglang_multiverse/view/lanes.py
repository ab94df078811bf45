"""Lanes read from events: one for the trunk and one for each path. ``timeline.js`` is its twin.

Runs of text that belong together become one :class:`Piece`. A piece ends where a block opens
(``<Parallel>``), where a block ends (``</Parallel>``), at a fork and at a join, so that a server's
events of single tokens give the pieces that a finished text gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .checked import EventError, checked, said
from .events import Event

Role = Literal["text", "goal", "conclusion"]


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
    """A fork, its lanes, and its join; ``joined`` is None while paths are open.

    ``told`` is the number of the event that told of the join.
    """

    position: int
    lanes: list[Lane]
    time: float | None = None
    joined: int | None = None
    joined_time: float | None = None
    told: int = 0

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

    @property
    def name(self) -> str:
        return f"path {self.path}" if self.path else "the trunk"


class Timeline:
    """All lanes, in the order they came to be: a parent before its children.

    Attributes:
        events: those it was made of, as :func:`.checked` gives them.
        timed: whether they have times.

    Raises:
        EventError: an event that no server and no finished text gives, or one that goes back: to a
            position that its path has passed, to an earlier time, to before the end of a path that
            it joins.
    """

    def __init__(self, events: Sequence[Any] = ()):
        self.events: list[Event] = checked(events)
        self.timed = bool(self.events) and "t" in self.events[0]
        self.lanes: list[Lane] = [Lane("", "", 0)]
        self.figures: dict[str, Any] = {}
        self.finish_reason: str | None = None
        self._by_path = {"": self.lanes[0]}
        self._started = False
        for number, event in enumerate(self.events, start=1):
            try:
                self._feed(event, number)
            except _Impossible as error:
                raise EventError(f"event {number}: {error}") from None
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

    def _feed(self, event: Event, number: int) -> None:
        kind, lane = event["kind"], self._by_path.get(event["path"])
        if lane is None:
            raise _Impossible(f"no fork has told of path {said(event['path'])}")
        time, position = event.get("t"), event["position"]
        if not self._started:
            self._started = True
            lane.position = lane.end = position
            lane.clock = time
        if position < lane.end:
            raise _Impossible(f"position {position:,}, but {lane.name} has come to {lane.end:,}")
        if time is not None and lane.clock is not None and time < lane.clock:
            raise _Impossible(f"t {time:g}, but {lane.name} has come to {lane.clock:g}")
        last = lane.items[-1] if lane.items else None
        if kind == "text":
            self._text(lane, last, event)
        elif kind == "fork":
            self._fork(lane, last, event)
        elif kind == "join":
            if not isinstance(last, Fork) or last.joined is not None:
                raise _Impossible(f"{lane.name} joins nothing")
            last.joined, last.joined_time, last.told = position, time, number
        elif kind == "close":
            lane.closed = True
        elif kind == "end":
            self.figures = event.get("figures", {})
            self.finish_reason = event.get("finish_reason")
        lane.end = position + event.get("tokens", 0)
        if kind in ("text", "join"):
            lane.clock = time

    def _text(self, lane: Lane, last: Piece | Fork | None, event: Event) -> None:
        position, tokens, text = event["position"], event["tokens"], event["text"]
        if isinstance(last, Piece) and (not tokens or _goes_on(last, position, text)):
            last.tokens += tokens
            last.text += text
            last.ended = event.get("t")
        else:
            role: Role = "conclusion" if isinstance(last, Fork) else "text"
            begun, ended = lane.clock, event.get("t")
            lane.items.append(Piece(lane.path, position, tokens, text, role, begun, ended))

    def _fork(self, lane: Lane, last: Piece | Fork | None, event: Event) -> None:
        if isinstance(last, Piece) and _opens_block(last.text):
            last.role = "goal"
        elif isinstance(last, Fork) and last.joined is None:
            raise _Impossible(f"{lane.name} forks twice")
        position, time = event["position"], event.get("t")
        fork = Fork(position, [], time)
        for index, named in enumerate(event["paths"]):
            path = named["path"]
            if path in self._by_path:
                raise _Impossible(f"path {path} is there already")
            one = Lane(path, named["label"], position, index, lane, end=position, clock=time)
            fork.lanes.append(one)
            self._by_path[path] = one
        self.lanes += fork.lanes
        lane.items.append(fork)

    def _measure(self) -> None:
        """Ends and tokens from the innermost lane out, the critical path from the trunk in."""
        for lane in reversed(self.lanes):
            lane.tokens = sum(piece.tokens for piece in lane.pieces)
            ends = [piece.end for piece in lane.pieces]
            for fork in lane.forks:
                lane.tokens += sum(inner.tokens for inner in fork.lanes)
                ends.append(fork.end)
                for inner in fork.lanes:
                    self._check_join(fork, inner)
            lane.end = max(ends, default=lane.position)
        self.trunk.critical = True
        for lane in self.lanes:
            for fork in lane.forks if lane.critical else ():
                max(fork.lanes, key=lambda one: one.end).critical = True

    def _check_join(self, fork: Fork, path: Lane) -> None:
        if fork.joined is None:
            return
        what, joins, ends = "position", f"{fork.joined:,}", f"{path.end:,}"
        late = path.end > fork.joined
        if not late and fork.joined_time is not None and path.clock is not None:
            what, joins, ends = "t", f"{fork.joined_time:g}", f"{path.clock:g}"
            late = path.clock > fork.joined_time
        if late:
            joined = f"{path.name}, which joins here,"
            raise EventError(f"event {fork.told}: {what} {joins}, but {joined} ends at {ends}")


class _Impossible(Exception):
    """What an event tells cannot have happened to its lane."""


def _goes_on(last: Piece, position: int, text: str) -> bool:
    return (
        position == last.end
        and not _opens_block(text)
        and not last.text.rstrip().endswith("</Parallel>")
    )


def _opens_block(text: str) -> bool:
    return text.lstrip().startswith("<Parallel>")


__all__ = ["EventError", "Fork", "Lane", "Piece", "Role", "Timeline"]
