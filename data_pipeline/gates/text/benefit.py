"""The benefit gate: a block that does not shorten the critical path is undone.

A block saves all of its paths but the longest, and costs its goal, its conclusion and its tags.
Most blocks of published traces cost more than they save. Off by default: the published corpus
keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sglang_multiverse.dialect import MULTIVERSE, DialectSpec
from sglang_multiverse.text import Block, Content, Document, serialise

from ...finding import Finding
from .flat import put, put_paths
from .numbering import renumber

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Benefit:
    """Tokens a block saves on the critical path, and tokens it costs there."""

    saved: int
    cost: int


def flatten_costly_blocks(
    document: Document,
    count_tokens: CountTokens,
    margin: int = 0,
    spec: DialectSpec = MULTIVERSE,
) -> tuple[Document, list[Finding]]:
    """``document`` without those blocks that save at most ``margin`` tokens more than they cost.

    Inner blocks go first, since what they save counts for the paths around them. The text of an
    undone block's paths stays, one after another, and blocks in them move up. Numbers are made
    anew.

    Args:
        count_tokens: tokens of a text, with tags as single tokens.

    Returns:
        The document, and a finding ``costly-block`` per undone block. Findings bear no span: the
        text they speak of is no more.
    """
    undoing = _Undoing(count_tokens, margin, spec)
    thought = None if document.thought is None else undoing.content(document.thought)
    result = replace(document, thought=thought, answer=undoing.content(document.answer))
    return (renumber(result), undoing.findings) if undoing.findings else (document, [])


class _Undoing:
    def __init__(self, count_tokens: CountTokens, margin: int, spec: DialectSpec):
        self.count = count_tokens
        self.margin = margin
        self.spec = spec
        self.findings: list[Finding] = []

    def content(self, content: Content) -> Content:
        out: Content = []
        for part in content:
            if isinstance(part, str):
                put(out, part)
                continue
            block = replace(
                part,
                paths=[replace(path, content=self.content(path.content)) for path in part.paths],
            )
            benefit = self.benefit(block)
            if not _whole(block) or benefit.saved > benefit.cost + self.margin:
                out.append(block)
                continue
            named = ", ".join(outline.text.strip() for outline in block.outlines)
            self.findings.append(
                Finding(
                    "costly-block",
                    f"saves {benefit.saved} tokens and costs {benefit.cost}: undone ({named})",
                    gate="benefit",
                )
            )
            put_paths(out, block)
        return out

    def benefit(self, block: Block) -> Benefit:
        """What ``block``, whose inner blocks are settled, saves and costs."""
        lengths = [self.critical([*path.content, *_ending(path.content)]) for path in block.paths]
        bare = [replace(path, content=["\n"]) for path in block.paths]
        frame = self.alone(replace(block, paths=[]))
        tags = [
            self.alone(replace(block, paths=[path])) - frame - self.count("\n") for path in bare
        ]
        # The longest path with its tags is on the critical path; without the block all texts are.
        longest = max((tag + length for tag, length in zip(tags, lengths, strict=True)), default=0)
        most = max(lengths, default=0)
        return Benefit(saved=sum(lengths) - most, cost=frame + longest - most)

    def alone(self, block: Block) -> int:
        return self.count(serialise(Document(answer=[block]), self.spec))

    def critical(self, content: Content) -> int:
        """Tokens on the critical path of ``content``."""
        total = 0
        for part in content:
            if isinstance(part, str):
                total += self.count(part)
            else:
                benefit = self.benefit(part)
                texts = ([*path.content, *_ending(path.content)] for path in part.paths)
                total += sum(map(self.critical, texts)) + benefit.cost - benefit.saved
        return total


def _whole(block: Block) -> bool:
    """Whether the block is one that could be undone without losing anything."""
    return bool(block.paths) and block.closed and all(path.closed for path in block.paths)


def _ending(content: Content) -> Content:
    """The line end a path has before its closing tag, where its text does not bring one."""
    last = content[-1] if content else ""
    return ["\n"] if isinstance(last, str) and not last.endswith("\n") else []
