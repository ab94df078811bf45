"""Structure: token ids → tree of blocks.

:func:`parse` runs a stack of :class:`~sglang_multiverse.sequencer.Sequencer` over a text, the one
place that says where a path begins and ends. The tree of a prefix is the prefix of the tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .dialect import MAX_LABEL_TOKENS, Dialect, Tag
from .sequencer import UNLIMITED, Issue, Limits, Sequencer, Signal
from .turns import Spans

Tokens = Sequence[int] | npt.NDArray[np.integer]


class StructureError(ValueError):
    """Strict parsing failed; ``issues`` holds every departure, in text order."""

    def __init__(self, issues: Sequence[Issue]):
        self.issues = tuple(issues)
        more = f" (and {len(issues) - 1} more)" if len(issues) > 1 else ""
        super().__init__(f"{issues[0]}{more}")


@dataclass
class Path:
    """One parallel sequence: tokens ``[start, end)`` from its ``<Path>`` to the next tile.

    ``close`` is the offset after its ``</Path>``, None while the path is open.
    """

    start: int
    end: int
    close: int | None = None
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Block:
    """One ``<Parallel>`` block whose goal forked. All bounds are token offsets, ends exclusive.

    ``[region_start, region_end)`` is tiled by ``paths``; ``conclusion`` is None until the
    ``<Conclusion>`` that ends the region, ``end`` is the text's end while the block is open.
    """

    start: int
    goal: tuple[int, int]
    outlines: list[tuple[int, int]]
    end: int
    paths: list[Path] = field(default_factory=list)
    conclusion: tuple[int, int] | None = None
    joined: bool = False
    closed: bool = False

    @property
    def region_start(self) -> int:
        return self.paths[0].start

    @property
    def region_end(self) -> int:
        return self.paths[-1].end


@dataclass
class Trace:
    """The tree of one text of ``length`` tokens."""

    length: int
    blocks: list[Block] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)

    def walk(self) -> Iterator[tuple[Block, int]]:
        """Every block with its depth (1 = in the trunk), parents before children."""
        stack = [(block, 1) for block in reversed(self.blocks)]
        while stack:
            block, depth = stack.pop()
            yield block, depth
            nested = [(b, depth + 1) for path in block.paths for b in path.blocks]
            stack.extend(reversed(nested))

    @property
    def depth(self) -> int:
        return max((depth for _, depth in self.walk()), default=0)

    @property
    def n_blocks(self) -> int:
        return sum(1 for _ in self.walk())

    @property
    def n_paths(self) -> int:
        return sum(len(block.paths) for block, _ in self.walk())

    @property
    def well_formed(self) -> bool:
        return not self.issues


class _Frame:
    """One open sequence of the parser, the block it has open, and what is still to be closed."""

    __slots__ = ("block", "blocks", "closing", "path", "sequencer")

    def __init__(self, sequencer: Sequencer, blocks: list[Block], path: Path | None):
        self.sequencer = sequencer
        self.blocks = blocks
        self.path = path
        self.block: Block | None = None  # forked, not yet joined
        self.closing: list[Block] = []  # joined, </Parallel> not yet seen


class _Parser:
    def __init__(
        self,
        tokens: Tokens,
        dialect: Dialect,
        limits: Limits,
        spans: Spans | None,
        earlier: tuple[int, Limits] | None,
    ):
        self.ids = np.asarray(tokens)
        if self.ids.ndim != 1:
            raise ValueError(f"expected one sequence of token ids, got shape {self.ids.shape}")
        self.dialect = dialect
        self.later = limits
        self.changes_at, self.limits = (0, limits) if earlier is None else earlier
        self.spans = spans
        self.trace = Trace(length=len(self.ids))
        self.frames = [_Frame(Sequencer(dialect, 0, self.limits), self.trace.blocks, None)]
        self.frames[0].sequencer.issues = self.trace.issues
        self.think: int | None = None
        self.thoughts = 0

    def run(self) -> Trace:
        tag_of = self.dialect.tag_of
        for offset in tag_offsets(self.ids, self.dialect, self.spans):
            if offset >= self.changes_at and self.limits is not self.later:
                self.limits = self.later
                for frame in self.frames:
                    frame.sequencer.limits = self.later
            self.step(tag_of[int(self.ids[offset])], int(offset))
        self.finish()
        self.trace.issues.sort(key=lambda issue: issue.offset)
        return self.trace

    def step(self, tag: Tag, offset: int) -> None:
        frame = self.frames[-1]
        block = frame.block
        if block is not None:
            if tag is Tag.PATH:
                self.open_path(frame, block, offset)
                return
            if block.paths:
                if tag in (Tag.CONCLUSION, Tag.END_PARALLEL, Tag.END_THINK):
                    self.join(frame, block, tag, offset)
                    if tag is not Tag.END_THINK:
                        return
                else:
                    self.note("stray_tag", offset, f"{self.dialect.spec[tag]} between two paths")
                    return
            else:  # nothing ran in parallel: the block is text after all
                self.note("no_path", block.goal[1] - 1, "a goal that no path follows")
                frame.blocks.remove(block)
                frame.block = None
        self.text_tag(self.frames[-1], tag, offset)

    def text_tag(self, frame: _Frame, tag: Tag, offset: int) -> None:
        if tag is Tag.THINK:
            self.open_think(offset)
        signal = frame.sequencer.feed_tag(tag, offset)
        if signal is Signal.FORK:
            sequencer = frame.sequencer
            frame.block = Block(
                start=sequencer.block_start,
                goal=(sequencer.goal_start, offset + 1),
                outlines=list(sequencer.outlines),
                end=len(self.ids),
            )
            frame.blocks.append(frame.block)
            self.check_goal(frame.block)
        elif signal is Signal.END_PATH:
            self.close_path(offset)
        elif signal is Signal.END_THINK:
            self.close_think(offset)
        elif tag in (Tag.END_CONCLUSION, Tag.END_PARALLEL):
            self.close_block(frame, tag, offset)

    def open_path(self, frame: _Frame, block: Block, offset: int) -> None:
        if block.paths:
            self.end_tile(block.paths[-1], offset)
        else:
            self.separated(block.goal[1], offset, "goal_gap")
        path = Path(start=offset, end=len(self.ids))
        block.paths.append(path)
        self.check_label(block, path)
        sequencer = Sequencer(self.dialect, frame.sequencer.depth + 1, self.limits)
        sequencer.issues = self.trace.issues
        self.frames.append(_Frame(sequencer, path.blocks, path))

    def close_path(self, offset: int) -> None:
        frame = self.frames.pop()
        assert frame.path is not None
        self.leave(frame, offset)
        frame.path.close = frame.path.end = offset + 1

    def end_tile(self, path: Path, offset: int) -> None:
        """The separator after ``</Path>`` belongs to the path it ends."""
        path.end = offset
        if path.close is not None:
            self.separated(path.close, offset, "path_gap")

    def join(self, frame: _Frame, block: Block, tag: Tag, offset: int) -> None:
        self.end_tile(block.paths[-1], offset)
        block.joined = True
        frame.block = None
        frame.sequencer.resume()
        if len(block.paths) != len(block.outlines):
            self.note(
                "path_count",
                offset,
                f"{len(block.outlines)} outlines but {len(block.paths)} paths",
            )
        if tag is Tag.CONCLUSION:
            block.conclusion = (offset, len(self.ids))
            frame.closing.append(block)
        else:
            self.note("no_conclusion", offset, "the paths are not followed by a conclusion")
            block.closed = tag is Tag.END_PARALLEL
            block.end = offset + 1 if block.closed else offset

    def close_block(self, frame: _Frame, tag: Tag, offset: int) -> None:
        block = frame.closing[-1] if frame.closing else None
        name = self.dialect.spec[tag]
        if block is None or block.conclusion is None:
            self.note("stray_tag", offset, f"{name} closes nothing")
        elif tag is Tag.END_CONCLUSION:
            if block.conclusion[1] != len(self.ids):
                self.note("stray_tag", offset, f"{name} stands here a second time")
            else:
                block.conclusion = (block.conclusion[0], offset + 1)
        else:
            frame.closing.pop()
            if block.conclusion[1] == len(self.ids):
                self.note("unclosed_conclusion", offset, f"{name} before the conclusion's end")
                block.conclusion = (block.conclusion[0], offset)
            else:
                self.separated(block.conclusion[1], offset, "conclusion_gap")
            block.closed = True
            block.end = offset + 1

    def open_think(self, offset: int) -> None:
        self.thoughts += 1
        if self.think is not None or self.thoughts > 1 or len(self.frames) > 1:
            self.note("stray_tag", offset, f"{self.dialect.spec[Tag.THINK]} inside a thought")
        else:
            self.think = offset

    def close_think(self, offset: int) -> None:
        """``</Think>`` ends every open path and block."""
        if len(self.frames) > 1:
            self.note("unclosed_path", offset, "the thought ends inside a path")
        while len(self.frames) > 1:
            frame = self.frames.pop()
            self.leave(frame, offset)
            outer = self.frames[-1]
            assert outer.block is not None
            self.join(outer, outer.block, Tag.END_THINK, offset)
        frame = self.frames[0]
        self.leave(frame, offset)
        if self.think is None:
            self.note("stray_tag", offset, f"{self.dialect.spec[Tag.END_THINK]} closes nothing")
        self.think = None

    def leave(self, frame: _Frame, offset: int) -> None:
        """A sequence ends: blocks it left open end with it."""
        for block in frame.closing:
            self.note("unclosed_block", offset, "the text around a block ends before it does")
            block.end = offset
            if block.conclusion is not None and block.conclusion[1] == len(self.ids):
                block.conclusion = (block.conclusion[0], offset)
        frame.closing.clear()

    def finish(self) -> None:
        end = len(self.ids)
        for frame in self.frames:
            for tag in frame.sequencer.open_tags:
                self.note("unclosed", end, f"{self.dialect.spec[tag]} is open at the end")
            if frame.block is not None:
                if frame.block.paths:
                    frame.block.paths[-1].end = end
                else:
                    frame.blocks.remove(frame.block)
                self.note("unclosed", end, "a block is open at the end, not joined")
            for _ in frame.closing:
                self.note("unclosed", end, "a conclusion is open at the end")
        if self.think is not None:
            self.note("unclosed_think", end, f"{self.dialect.spec[Tag.THINK]} is never closed")

    # Canonical form: reported, never a reason to see other structure.

    def check_goal(self, block: Block) -> None:
        goal_start, goal_end = block.goal
        self.separated(block.start + 1, goal_start, "goal_gap")
        edge = goal_start + 1
        for start, end in block.outlines:
            self.separated(edge, start, "outline_gap")
            edge = end
            if self.label_at(start, end) is None:
                self.note("outline_label", start, "an outline without a number")
        self.separated(edge, goal_end - 1, "outline_gap")
        labels = [self.label_at(*span) for span in block.outlines]
        if len({label for label in labels if label}) < len([label for label in labels if label]):
            self.note("outline_label", goal_start, "two outlines bear one number")

    def check_label(self, block: Block, path: Path) -> None:
        index = len(block.paths) - 1
        if index < len(block.outlines):
            expected = self.label_at(*block.outlines[index])
            window = path.start + MAX_LABEL_TOKENS + 4
            found = self.label_at(path.start, window)
            cut = found is None and window > len(self.ids)
            if expected is not None and found != expected and not cut:
                self.note("path_label", path.start, "the path's number is not its outline's")

    def label_at(self, start: int, end: int) -> tuple[int, ...] | None:
        return self.dialect.label([int(i) for i in self.ids[start + 1 : end]])

    def separated(self, start: int, end: int, code: str) -> None:
        gap = tuple(int(i) for i in self.ids[start:end])
        if gap != self.dialect.separator:
            self.note(code, start, "expected one separator between two tags")

    def note(self, code: str, offset: int, message: str) -> None:
        self.trace.issues.append(Issue(code, offset, message))


def tag_offsets(
    tokens: Tokens, dialect: Dialect, spans: Spans | None = None
) -> npt.NDArray[np.intp]:
    """Offsets of the tags that are structure in ``tokens``, ascending.

    Args:
        spans: ``[start, end)`` ranges in which tags count. None means the assistant's turns of the
            chat template, or the whole text where it has no such turn.
    """
    ids = np.asarray(tokens)
    if not len(ids):
        return np.zeros(0, dtype=np.intp)
    found = np.flatnonzero(np.isin(ids, dialect.tag_ids))
    if spans is None:
        if not len(found) or dialect.turns is None:
            return found
        spans = dialect.turns.spans(ids)
        if not spans:
            return found
    if not spans:
        return found[:0]
    bounds = np.asarray(spans)
    at = np.searchsorted(bounds[:, 0], found, side="right") - 1
    inside: npt.NDArray[np.bool_] = (at >= 0) & (found < bounds[at, 1])
    return found[inside]


def parse(
    tokens: Tokens,
    dialect: Dialect,
    *,
    strict: bool = False,
    limits: Limits = UNLIMITED,
    spans: Spans | None = None,
    earlier: tuple[int, Limits] | None = None,
) -> Trace:
    """Parse token ids into the tree of blocks.

    Args:
        tokens: ids of one text, shape ``(n,)``; it may be cut anywhere.
        strict: raise unless the text is in canonical form and complete.
        limits: the bounds the engine served with, so that a goal it declined is text here too.
        spans: where tags count, as in :func:`tag_offsets`.
        earlier: an offset, and the bounds that held for goals before it.

    Raises:
        StructureError: with ``strict``, naming code and token offset of every issue. Without it
            nothing a model may emit raises; departures are in ``Trace.issues``.
    """
    trace = _Parser(tokens, dialect, limits, spans, earlier).run()
    if strict and trace.issues:
        raise StructureError(trace.issues)
    return trace


__all__ = [
    "UNLIMITED",
    "Block",
    "Issue",
    "Limits",
    "Path",
    "Sequencer",
    "Signal",
    "StructureError",
    "Tokens",
    "Trace",
    "parse",
    "tag_offsets",
]
