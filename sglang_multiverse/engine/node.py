"""Nodes of one request's tree: the trunk and its paths, and what is read of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..sequencer import Sequencer


class State(Enum):
    """Where a node is between fork and join."""

    QUEUED = "queued"  # seeded, no row yet
    RUNNING = "running"  # decodes in a row of its own
    SHARING = "sharing"  # waits, in no row, until its siblings have come as far
    FORKED = "forked"  # waits for its paths
    CLOSED = "closed"  # a path that has ended, waits for its siblings
    STOPPED = "stopped"  # a stop of the caller's stands in it; the answer ends there
    RESUMING = "resuming"  # joined, its conclusion not yet launched
    OVER = "over"  # its tokens belong to its parent, or the tree has ended


@dataclass
class Emitted:
    """A run of the canonical stream, in columns; ``records`` is what the caller attached."""

    tokens: array[int] = field(default_factory=lambda: array("q"))
    sampled: bytearray = field(default_factory=bytearray)
    records: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, node: Node, end: int) -> None:
        """Append the tokens of ``node`` from where it was last left up to its ``end``."""
        at = node.emitted
        self.tokens.extend(node.tokens[at:end])
        self.sampled += node.sampled[at:end]
        self.records += node.records[at:end]
        node.emitted = max(at, end)


class Node:
    """The trunk or one path.

    ``tokens`` are its own tokens in canonical order, those of joined blocks included; the trunk's
    begin with the prompt. Row index ``j`` of its page-table row has position ``j - delta``; the
    own tokens stand in the row from index ``base`` on.

    Attributes:
        pending: trailing tokens whose KV is not written and that the next row must extend.
        emitted: own tokens already handed to the canonical stream.
        stale: index of an own token that was replaced after a step may have written its KV.
        stop: where the answer ends, an index into its own tokens, once it is STOPPED.
        handle: the scheduler's request object.
    """

    __slots__ = (
        "base",
        "delta",
        "depth",
        "emitted",
        "handle",
        "index",
        "kids",
        "parent",
        "pending",
        "records",
        "sampled",
        "sequencer",
        "stale",
        "state",
        "stop",
        "tokens",
    )

    def __init__(self, parent: Node | None, index: int, sequencer: Sequencer):
        self.parent = parent
        self.index = index
        self.depth = sequencer.depth
        self.sequencer = sequencer
        self.base: int = 0 if parent is None else parent.row_len
        self.delta: int = 0 if parent is None else parent.delta
        self.tokens: array[int] = array("q")
        self.sampled = bytearray()
        self.records: list[Any] = []
        self.kids: list[Node] = []
        self.state = State.QUEUED
        self.pending = 0
        self.stale: int | None = None
        self.stop: int | None = None
        self.emitted = 0
        self.handle: Any = None

    @property
    def row_len(self) -> int:
        """Length of its row once all its tokens are written."""
        return self.base + len(self.tokens)

    @property
    def next_position(self) -> int:
        """Position of the token that would follow."""
        return self.row_len - self.delta

    @property
    def key(self) -> str:
        """Where it stands in the tree: ``""`` for the trunk, ``"2.1"`` for a nested path."""
        return ".".join(str(node.index + 1) for node in self.lineage()[1:])

    def lineage(self) -> list[Node]:
        """The nodes from the trunk down to this one."""
        line: list[Node] = []
        node: Node | None = self
        while node is not None:
            line.append(node)
            node = node.parent
        return line[::-1]

    def append(self, tokens: Sequence[int], *, sampled: bool) -> None:
        self.tokens.extend(tokens)
        self.sampled.extend((sampled,) * len(tokens))
        self.records.extend((None,) * len(tokens))

    def walk(self) -> Iterator[Node]:
        """It and every node below it, parents before their paths, paths in canonical order."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.kids))
