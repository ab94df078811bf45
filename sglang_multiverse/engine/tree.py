"""The fork/join state machine of one request.

A :class:`Tree` holds a trunk :class:`Node` and, while a block is open, one node per path. It is
told every sampled token (:meth:`Tree.accept`) and answers what happened; the scheduler side turns
forks and joins into rows of a forward batch. Everything here is a function of tokens and lengths,
so every tensor-parallel rank decides the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from ..dialect import Dialect, Tag
from ..layout import layout_of
from ..parallelism import Parallelism, parallelism
from ..sequencer import Limits, Sequencer, Signal
from ..structure import Block, Path, Trace, parse
from .options import EngineOptions


class State(Enum):
    """Where a node is between fork and join."""

    QUEUED = "queued"  # seeded, no row yet
    RUNNING = "running"  # decodes in a row of its own
    FORKED = "forked"  # waits for its paths
    CLOSED = "closed"  # a path that has ended, waits for its siblings
    RESUMING = "resuming"  # joined, its conclusion not yet launched
    OVER = "over"  # its tokens belong to its parent, or the tree has ended


class Outcome(Enum):
    """What a sampled token did."""

    CONTINUE = "continue"
    FORK = "fork"
    END_PATH = "end_path"
    LENGTH = "length"  # the tree has ended: a budget is spent
    DROP = "drop"  # the tree had ended before this token


class Emitted(NamedTuple):
    """One token of the canonical stream. ``record`` is what the caller attached to it."""

    token: int
    sampled: bool
    record: Any


class Node:
    """The trunk or one path.

    ``tokens`` are its own tokens in canonical order, those of joined blocks included; the trunk's
    begin with the prompt. Row index ``j`` of its page-table row has position ``j - delta``; the
    own tokens stand in the row from index ``base`` on.

    Attributes:
        pending: trailing tokens whose KV is not written and that the next row must extend.
        emitted: own tokens already handed to the canonical stream.
        stale: index of an own token that was replaced after a step may have written its KV.
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
        "tokens",
    )

    def __init__(self, parent: Node | None, index: int, sequencer: Sequencer):
        self.parent = parent
        self.index = index
        self.depth = sequencer.depth
        self.sequencer = sequencer
        self.base: int = 0 if parent is None else parent.row_len
        self.delta: int = 0 if parent is None else parent.delta
        self.tokens: list[int] = []
        self.sampled = bytearray()
        self.records: list[Any] = []
        self.kids: list[Node] = []
        self.state = State.QUEUED
        self.pending = 0
        self.stale: int | None = None
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
        if self.parent is None:
            return ""
        above = self.parent.key
        return f"{above}.{self.index + 1}" if above else str(self.index + 1)

    def append(self, tokens: Sequence[int], *, sampled: bool) -> None:
        self.tokens.extend(tokens)
        self.sampled.extend((sampled,) * len(tokens))
        self.records.extend((None,) * len(tokens))

    def walk(self) -> Iterator[Node]:
        yield self
        for kid in self.kids:
            yield from kid.walk()


@dataclass
class Tally:
    """Counts over the life of one request."""

    forks: int = 0
    paths: int = 0
    depth: int = 0
    forward_steps: int = 0


class Tree:
    """All nodes of one request.

    Args:
        prompt: prompt token ids. Finished blocks in it are structure; an unjoined one is refused.
        max_new_tokens: bound on the generated tokens of all nodes together, injected ones included.

    Raises:
        ValueError: the prompt ends inside a block that has forked.
    """

    def __init__(
        self, prompt: Sequence[int], dialect: Dialect, options: EngineOptions, max_new_tokens: int
    ):
        self.dialect = dialect
        self.options = options
        self.limits = options.limits
        self.max_new_tokens = max_new_tokens
        self.prompt_len = len(prompt)
        self.total = 0
        self.tally = Tally()
        self.over = False
        self.root = self._trunk(prompt)

    def _trunk(self, prompt: Sequence[int]) -> Node:
        sequencer = Sequencer(self.dialect, 0, self.limits)
        root = Node(None, 0, sequencer)
        root.append(prompt, sampled=False)
        root.emitted = len(prompt)
        root.state = State.RUNNING
        tag_of = self.dialect.tag_of
        tags = [(i, token) for i, token in enumerate(prompt) if token in tag_of]
        self.structured_prompt = False
        if not tags:
            self.prompt_position = self.prompt_len
            return root
        trace = parse(prompt, self.dialect, limits=self.limits)
        if any(not block.joined for block in trace.blocks):
            raise ValueError(
                "the prompt ends inside a parallel block; finish the block up to its "
                f"{self.dialect.spec[Tag.CONCLUSION]}, or cut the prompt before its "
                f"{self.dialect.spec[Tag.END_GOAL]}"
            )
        self.structured_prompt = bool(trace.blocks)
        # Only what stands after the last block can still open one.
        resume = max((block.region_end for block in trace.blocks), default=0)
        for offset, token in tags:
            if offset >= resume:
                sequencer.feed(token, offset)
        self.prompt_position = layout_of(trace).critical_path
        root.delta = self.prompt_len - self.prompt_position
        return root

    # What a token does.

    def accept(self, node: Node, token: int) -> Outcome:
        """Take one sampled token of ``node``."""
        if self.over or node.state is not State.RUNNING:
            return Outcome.DROP
        offset = len(node.tokens)
        node.append((token,), sampled=True)
        if node.parent is None:
            assert node.emitted == offset, "the trunk's stream is behind its own samples"
            node.emitted += 1
        self.total += 1
        node.pending = 1
        closers = node.sequencer.closers
        signal = node.sequencer.feed(token, offset)
        if self._spent(node):
            return self.end()
        if signal is Signal.FORK:
            return self._fork(node)
        if node.parent is not None and signal in (Signal.END_PATH, Signal.END_THINK):
            return self.end_path(node, replace=signal is Signal.END_THINK, closers=closers)
        return Outcome.CONTINUE

    def end_path(self, node: Node, *, replace: bool, closers: int | None = None) -> Outcome:
        """``node``'s last token ends its path.

        With ``replace`` it was an end of text or thought and becomes the path's closing tag; paths
        of declined goals that are still open are closed with it.

        Args:
            closers: how many closing tags end the path, where the last token changed that.
        """
        end, tail = self.dialect[Tag.END_PATH], self.dialect.path_tail
        missing = (closers or node.sequencer.closers) - 1 if replace else 0
        tail = missing * (*tail, end) + tail
        # Whatever follows needs a token more: a sibling's, or the conclusion's first.
        if not self._room(len(tail), 1, node.next_position + len(tail)):
            return self.end()
        if replace:
            node.tokens[-1] = end
            node.sampled[-1] = False
            node.stale = len(node.tokens) - 1
        self._inject(node, tail)
        node.state = State.CLOSED
        return Outcome.END_PATH

    def end(self) -> Outcome:
        """The request is over: no node takes another token and nothing more is seeded."""
        self.over = True
        return Outcome.LENGTH

    def _fork(self, node: Node) -> Outcome:
        dialect = self.dialect
        labels = [
            dialect.label(node.tokens[start + 1 : end]) or dialect.ordinal(i)
            for i, (start, end) in enumerate(node.sequencer.outlines)
        ]
        seeds = [dialect.path_seed(label) for label in labels]
        injected = len(dialect.goal_tail) + sum(len(seed) for seed in seeds)
        reach = node.next_position + len(dialect.goal_tail) + max(map(len, seeds)) + 1
        if not self._room(injected, len(seeds), reach):
            return self.end()
        self._inject(node, dialect.goal_tail)
        for i, seed in enumerate(seeds):
            kid = Node(node, i, Sequencer(dialect, node.depth + 1, self.limits))
            self._inject(kid, seed)
            kid.pending = len(seed)
            node.kids.append(kid)
        node.state = State.FORKED
        self.tally.forks += 1
        self.tally.paths += len(seeds)
        self.tally.depth = max(self.tally.depth, node.depth + 1)
        return Outcome.FORK

    def ready_to_join(self, node: Node) -> bool:
        return node.state is State.FORKED and all(kid.state is State.CLOSED for kid in node.kids)

    def join(self, node: Node) -> list[Node] | None:
        """Make the closed paths of ``node`` its own tokens and seed the conclusion.

        Returns the paths, in order; their slots now belong to ``node``. None when the budget has
        no room for a conclusion: the tree has ended.
        """
        assert self.ready_to_join(node)
        furthest = max(kid.next_position for kid in node.kids)
        seed = self.dialect.conclusion_seed
        if not self._room(len(seed), 1, furthest + len(seed) + 1):
            self.end()
            return None
        kids = node.kids
        flushed = all(kid.emitted == len(kid.tokens) for kid in kids)
        for kid in kids:
            node.tokens.extend(kid.tokens)
            node.sampled.extend(kid.sampled)
            node.records.extend(kid.records)
            kid.state = State.OVER
        if flushed:
            node.emitted = len(node.tokens)
        node.delta = node.row_len - furthest
        node.kids = []
        self._inject(node, seed)
        node.pending = len(seed)
        node.sequencer.resume()
        node.state = State.RESUMING
        return kids

    def _inject(self, node: Node, tokens: Sequence[int]) -> None:
        node.append(tokens, sampled=False)
        self.total += len(tokens)

    def _room(self, injected: int, sampled: int, reach: int) -> bool:
        """Whether so many tokens more fit the budgets, the furthest ending before ``reach``."""
        bound = self.options.max_critical_path
        return self.total + injected + sampled <= self.max_new_tokens and (
            bound is None or reach - self.prompt_position <= bound
        )

    def _spent(self, node: Node) -> bool:
        bound = self.options.max_critical_path
        return self.total >= self.max_new_tokens or (
            bound is not None and node.next_position - self.prompt_position >= bound
        )

    # What the world sees.

    @property
    def forked(self) -> bool:
        """Whether any KV of this request was made under another layout than the causal one."""
        return self.structured_prompt or self.tally.forks > 0

    def nodes(self) -> Iterator[Node]:
        """Every open node, parents before their paths, paths in canonical order."""
        return self.root.walk()

    def live(self) -> int:
        return sum(1 for node in self.nodes() if node.state is State.RUNNING)

    def emit(self, *, everything: bool = False) -> list[Emitted]:
        """The tokens of the canonical stream that have become visible since the last call.

        A path's tokens are visible when all paths before it have closed; with ``everything`` (the
        request is over) open paths are taken as they stand.
        """
        out: list[Emitted] = []

        def take(node: Node) -> bool:
            at = node.emitted
            out.extend(
                map(Emitted, node.tokens[at:], map(bool, node.sampled[at:]), node.records[at:])
            )
            node.emitted = len(node.tokens)
            closed = node.state is State.CLOSED or everything
            return all(take(kid) for kid in node.kids) and closed

        take(self.root)
        return out

    def trace(self, *, written_only: bool = False) -> tuple[list[int], Trace, dict[Node, int]]:
        """The whole tree as one text in canonical order.

        Args:
            written_only: leave out each node's pending tokens, and queued paths.

        Returns:
            Its tokens, its tree of blocks (open blocks too), and where each open node's own
            tokens start.
        """
        tokens: list[int] = []
        starts: dict[Node, int] = {}

        def lay(node: Node) -> list[Block]:
            start = starts[node] = len(tokens)
            keep = len(node.tokens)
            if written_only and node.state in (State.RUNNING, State.RESUMING):
                keep -= node.pending
            own = node.tokens[:keep]
            tokens.extend(own)
            depth = self.limits.max_depth
            within = Limits(self.limits.max_branches, None if depth is None else depth - node.depth)
            blocks = [_shifted(b, start) for b in parse(own, self.dialect, limits=within).blocks]
            kids = [kid for kid in node.kids if not (written_only and kid.state is State.QUEUED)]
            if kids:
                sequencer = node.sequencer
                block = Block(
                    start=start + sequencer.block_start,
                    goal=(start + sequencer.goal_start, len(tokens)),
                    outlines=[(start + a, start + b) for a, b in sequencer.outlines],
                    end=0,
                )
                for kid in kids:
                    path = Path(start=len(tokens), end=0)
                    path.blocks = lay(kid)
                    path.end = len(tokens)
                    block.paths.append(path)
                block.end = len(tokens)
                blocks.append(block)
            return blocks

        blocks = lay(self.root)
        return tokens, Trace(length=len(tokens), blocks=blocks), starts

    def parallelism(self) -> Parallelism:
        """Of all tokens generated so far."""
        _, trace, _ = self.trace()
        return parallelism(trace, prompt_tokens=self.prompt_len)


def _shifted(block: Block, by: int) -> Block:
    def span(pair: tuple[int, int]) -> tuple[int, int]:
        return pair[0] + by, pair[1] + by

    return Block(
        start=block.start + by,
        goal=span(block.goal),
        outlines=[span(outline) for outline in block.outlines],
        end=block.end + by,
        paths=[
            Path(
                start=path.start + by,
                end=path.end + by,
                close=None if path.close is None else path.close + by,
                blocks=[_shifted(inner, by) for inner in path.blocks],
            )
            for path in block.paths
        ],
        conclusion=None if block.conclusion is None else span(block.conclusion),
        joined=block.joined,
        closed=block.closed,
    )
