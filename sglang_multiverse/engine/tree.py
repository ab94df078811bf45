"""The fork/join state machine of one request.

A :class:`Tree` holds a trunk :class:`Node` and, while a block is open, one node per path. It is
told every sampled token (:meth:`Tree.accept`) and answers what happened; the scheduler side turns
forks and joins into rows of a forward batch. Everything here is a function of tokens and lengths,
so every tensor-parallel rank decides the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from ..dialect import Dialect, Tag
from ..layout import layout_of
from ..parallelism import Parallelism, parallelism
from ..sequencer import Limits, Sequencer, Signal
from ..structure import Block, Path, Trace, parse, tag_offsets
from ..turns import Spans
from .node import Emitted, Node, State
from .options import EngineOptions
from .sharing import begins_chunk, pauses

#: Tags count in all that the engine writes, whatever else it holds.
_EVERYWHERE: Spans = [(0, 1 << 62)]


class PromptError(ValueError):
    """A prompt that cannot be continued as it stands; the message says where to cut it."""


class Outcome(Enum):
    """What a sampled token did."""

    CONTINUE = "continue"
    FORK = "fork"
    END_PATH = "end_path"
    SHARE = "share"  # the path waits: its newest token sees more than the one before it
    LENGTH = "length"  # the tree has ended: a budget is spent
    DROP = "drop"  # the tree had ended before this token


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
            One that ends at a forking ``</Goal>`` forks at once (:meth:`begin`).
        max_new_tokens: bound on the generated tokens of all nodes together, injected ones included.
        spans: where in the prompt tags are structure; None means everywhere.
        prompt_limits: the bounds under which the blocks of the prompt were made; those of
            ``options`` if None.
        replays_prompt: whether finished blocks in the prompt are laid out by a replay; an attention
            backend that knows segments computes them as it computes any prompt.

    Attributes:
        spans, prompt_limits: as given, or what stands for None.
        stopped: the node whose stop the canonical stream has reached.
        share_every: tokens after which paths see their siblings'; None: at the join alone.
        begins_forked: the prompt ends at a goal that forks.

    Raises:
        PromptError: the prompt ends inside a block that has forked.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        dialect: Dialect,
        options: EngineOptions,
        max_new_tokens: int,
        spans: Spans | None = None,
        prompt_limits: Limits | None = None,
        replays_prompt: bool = True,
    ):
        self.dialect = dialect
        self.options = options
        self.limits = options.limits
        self.share_every = options.share_every
        self.prompt_limits = prompt_limits or options.limits
        self.max_new_tokens = max_new_tokens
        self.prompt_len = len(prompt)
        self.total = 0
        self.tally = Tally()
        self.over = False
        self.stopped: Node | None = None
        self.spans = _EVERYWHERE if spans is None else spans
        self.replays_prompt = replays_prompt
        self.root = self._trunk(prompt)
        self._cursor = self.root
        self._measured: Parallelism | None = None

    def _trunk(self, prompt: Sequence[int]) -> Node:
        sequencer = Sequencer(self.dialect, 0, self.prompt_limits)
        root = Node(None, 0, sequencer)
        root.append(prompt, sampled=False)
        root.emitted = len(prompt)
        root.state = State.RUNNING
        self.structured_prompt = self.begins_forked = False
        self.prompt_position = self.prompt_len
        tags = tag_offsets(root.tokens, self.dialect, self.spans)
        if not len(tags):
            sequencer.limits = self.limits
            return root
        trace = parse(root.tokens, self.dialect, limits=self.prompt_limits, spans=self.spans)
        if any(not block.joined for block in trace.blocks):
            raise PromptError(
                "the prompt breaks off inside a parallel block, the one at token "
                f"{next(b.start for b in trace.blocks if not b.joined)}; finish the block up to "
                f"its {self.dialect.spec[Tag.CONCLUSION]}, cut the prompt after its "
                f"{self.dialect.spec[Tag.END_GOAL]}: there it forks, or set "
                'custom_params.multiverse.structure to "none" to have tags read as words'
            )
        # Only what stands after the last block can still open one.
        resume = max((block.region_end for block in trace.blocks), default=0)
        for offset in tags[tags >= resume].tolist():
            if offset == tags[-1]:
                sequencer.limits = self.limits  # a goal that ends the prompt forks now
            sequencer.feed(root.tokens[offset], offset)
        if sequencer.forked:
            rest = tuple(root.tokens[offset + 1 :])
            if rest != self.dialect.goal_tail[: len(rest)]:
                raise PromptError(
                    f"text follows the {self.dialect.spec[Tag.END_GOAL]} that ends the prompt; cut "
                    "the prompt after it: there it forks"
                )
            self.begins_forked = True
        self.structured_prompt = bool(trace.blocks) or self.begins_forked
        if trace.blocks:
            self.prompt_position = layout_of(trace).critical_path
            root.delta = self.prompt_len - self.prompt_position
        return root

    def begin(self) -> Outcome:
        """Fork at the goal that ends the prompt, if one does."""
        if not self.begins_forked:
            return Outcome.CONTINUE
        written = self.prompt_len - self.root.sequencer.goal_end
        return self._fork(self.root, tail=self.dialect.goal_tail[written:])

    # What a token does.

    def accept(self, node: Node, token: int) -> Outcome:
        """Take one sampled token of ``node``."""
        if self.over or node.state is not State.RUNNING:
            return Outcome.DROP
        offset = len(node.tokens)
        self.take(node, (token,))
        closers = node.sequencer.closers
        signal = node.sequencer.feed(token, offset)
        if self._spent(node):
            return self.end()
        if signal is Signal.FORK:
            return self._fork(node)
        if node.parent is not None and signal in (Signal.END_PATH, Signal.END_THINK):
            return self.end_path(node, replace=signal is Signal.END_THINK, closers=closers)
        return Outcome.CONTINUE

    def take(self, node: Node, tokens: Sequence[int]) -> None:
        """Take sampled tokens that are no tags, or after which nothing is asked of the tree."""
        if node.parent is None:
            assert node.emitted == len(node.tokens), "the trunk's stream is behind its own samples"
            node.emitted += len(tokens)
        node.append(tokens, sampled=True)
        self.total += len(tokens)
        node.pending = 1

    def stop(self, node: Node, end: int) -> None:
        """A stop of the caller's ends after the first ``end`` own tokens of ``node``.

        The node decodes no more. Paths before it go on: the answer ends where the canonical stream
        reaches the stop, however rows were scheduled.
        """
        self._leave(node)
        node.state = State.STOPPED
        node.stop = end

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
        self._leave(node)
        if replace:
            node.tokens[-1] = end
            node.sampled[-1] = False
            node.stale = len(node.tokens) - 1
        self._inject(node, tail)
        node.state = State.CLOSED
        return Outcome.END_PATH

    def share(self, node: Node) -> Outcome:
        """Let ``node`` wait for its siblings, if its newest token is the first to see more."""
        if self.share_every is None or not pauses(node, self.share_every):
            return Outcome.CONTINUE
        self._leave(node)
        node.state = State.SHARING
        return Outcome.SHARE

    def _leave(self, node: Node) -> None:
        """A path leaves its row. What a step in flight wrote of a token that begins a chunk did
        not see what the token sees."""
        if self.share_every is not None and begins_chunk(node, self.share_every):
            node.stale = len(node.tokens) - 1

    def end(self) -> Outcome:
        """The request is over: no node takes another token and nothing more is seeded."""
        self.over = True
        return Outcome.LENGTH

    def _fork(self, node: Node, tail: tuple[int, ...] | None = None) -> Outcome:
        dialect = self.dialect
        tail = dialect.goal_tail if tail is None else tail
        labels = [
            dialect.label(node.tokens[start + 1 : end]) or dialect.ordinal(i)
            for i, (start, end) in enumerate(node.sequencer.outlines)
        ]
        seeds = [dialect.path_seed(label) for label in labels]
        injected = len(tail) + sum(len(seed) for seed in seeds)
        reach = node.next_position + len(tail) + max(map(len, seeds)) + 1
        if not self._room(injected, len(seeds), reach):
            return self.end()
        self._inject(node, tail)
        for i, seed in enumerate(seeds):
            kid = Node(node, i, Sequencer(dialect, node.depth + 1, self.limits))
            self._inject(kid, seed)
            kid.pending = len(seed)
            if self.share_every is not None:
                kid.state = State.SHARING
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
        if self._cursor.parent is node:  # the stream stands in one of its paths
            before = sum(len(kid.tokens) for kid in kids[: self._cursor.index])
            node.emitted = len(node.tokens) + before + self._cursor.emitted
            self._cursor = node
        for kid in kids:
            node.tokens.extend(kid.tokens)
            node.sampled.extend(kid.sampled)
            node.records.extend(kid.records)
            kid.state = State.OVER
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
        """Whether a row of stock code no longer computes this request's KV by itself."""
        return (self.structured_prompt and self.replays_prompt) or self.tally.forks > 0

    def nodes(self) -> Iterator[Node]:
        """Every open node, parents before their paths, paths in canonical order."""
        return self.root.walk()

    def live(self) -> int:
        return sum(1 for node in self.nodes() if node.state is State.RUNNING)

    def emit(self, *, everything: bool = False) -> Emitted:
        """The tokens of the canonical stream that have become visible since the last call.

        A path's tokens are visible when all paths before it have closed; with ``everything`` (the
        request is over) open paths are taken as they stand. Nothing stands behind a stop.
        """
        out = Emitted()
        if self.stopped is not None:
            return out
        node: Node | None = self._cursor
        while node is not None:
            self._cursor = node
            out.take(node, len(node.tokens) if node.stop is None else node.stop)
            if node.stop is not None:
                self.stopped = node
                break
            node = node.kids[0] if node.kids else self._after(node, everything)
        return out

    @staticmethod
    def _after(node: Node, everything: bool) -> Node | None:
        """The node whose tokens follow those of ``node``, a node without paths, if they may."""
        if node.state is not State.CLOSED and not everything:
            return None
        while node.parent is not None:
            if node.index + 1 < len(node.parent.kids):
                return node.parent.kids[node.index + 1]
            if not everything:
                return None  # the join comes first
            node = node.parent
        return None

    def cut(self, generated: int) -> None:
        """Forget all but the first ``generated`` tokens of the canonical text."""
        left = self.prompt_len + generated
        for node in list(self.nodes()):
            keep = min(left, len(node.tokens))
            left -= keep
            del node.tokens[keep:], node.sampled[keep:], node.records[keep:]
            node.kids = [kid for kid in node.kids if left]
        for node in list(self.nodes()):
            node.kids = [kid for kid in node.kids if kid.tokens]
        self.total = generated
        self._measured = None

    def written(self) -> int:
        """Tokens of the whole text whose KV a replay computes: what ``trace(written_only=True)``
        holds, counted without laying it out, and paths that share."""
        return sum(self._kept(node) for node in self.nodes() if node.state is not State.QUEUED)

    def _replayed(self, node: Node) -> bool:
        """Whether a replay computes the node; paths that share are computed chunk by chunk."""
        if self.share_every is not None:
            return node.parent is None
        return node.state is not State.QUEUED

    @staticmethod
    def _kept(node: Node) -> int:
        open_ended = node.state in (State.RUNNING, State.RESUMING)
        return len(node.tokens) - (node.pending if open_ended else 0)

    def trace(self, *, written_only: bool = False) -> tuple[array[int], Trace, dict[Node, int]]:
        """The whole tree as one text in canonical order.

        Args:
            written_only: leave out each node's pending tokens, queued paths, and those that share.

        Returns:
            Its tokens, its tree of blocks (open blocks too), and where each open node's own
            tokens start.
        """
        tokens: array[int] = array("q")
        starts: dict[Node, int] = {}
        ends: dict[Node, int] = {}
        blocks: dict[Node, list[Block]] = {}
        for node in self.nodes():
            if written_only and not self._replayed(node):
                continue
            starts[node] = start = len(tokens)
            own = node.tokens[: self._kept(node)] if written_only else node.tokens[:]
            tokens.extend(own)
            ends[node] = len(tokens)
            blocks[node] = self._blocks(node, own, start)
        for node in reversed(list(starts)):
            kids = [kid for kid in node.kids if kid in starts]
            if not kids:
                continue
            sequencer, start, region = node.sequencer, starts[node], ends[node]
            ends[node] = ends[kids[-1]]
            blocks[node].append(
                Block(
                    start=start + sequencer.block_start,
                    goal=(start + sequencer.goal_start, region),
                    outlines=[(start + a, start + b) for a, b in sequencer.outlines],
                    end=ends[node],
                    paths=[Path(starts[k], ends[k], blocks=blocks[k]) for k in kids],
                )
            )
        return tokens, Trace(length=len(tokens), blocks=blocks[self.root]), starts

    def _blocks(self, node: Node, own: array[int], start: int) -> list[Block]:
        """The joined blocks among a node's own tokens, placed at ``start`` of the text."""
        spans, earlier = _EVERYWHERE, None
        if node.parent is None:
            spans = [*self.spans, (self.prompt_len, _EVERYWHERE[0][1])]
            earlier = self.prompt_len, self.prompt_limits
        depth = self.limits.max_depth
        within = Limits(self.limits.max_branches, None if depth is None else depth - node.depth)
        trace = parse(own, self.dialect, limits=within, spans=spans, earlier=earlier)
        if start:
            for block, _ in trace.walk():
                _shift(block, start)
        return trace.blocks

    def parallelism(self) -> Parallelism:
        """Of all tokens generated so far."""
        if self._measured is not None:
            return self._measured
        _, trace, _ = self.trace()
        measured = parallelism(trace, prompt_tokens=self.prompt_len)
        if self.over:
            self._measured = measured
        return measured


def _shift(block: Block, by: int) -> None:
    """Move ``block`` itself, not the blocks in its paths, ``by`` tokens to the right."""
    block.start += by
    block.end += by
    block.goal = (block.goal[0] + by, block.goal[1] + by)
    block.outlines = [(start + by, end + by) for start, end in block.outlines]
    for path in block.paths:
        path.start += by
        path.end += by
        if path.close is not None:
            path.close += by
    if block.conclusion is not None:
        block.conclusion = (block.conclusion[0] + by, block.conclusion[1] + by)


__all__ = ["Emitted", "Node", "Outcome", "PromptError", "State", "Tally", "Tree"]
