"""A trace as a tree of blocks and paths, for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.markup import escape
from rich.tree import Tree

from ..parallelism import Parallelism
from ..structure import Block, Path, Trace

TextOf = Callable[[int, int], str]

_SHOWN = 60
_DEEPEST = 30  # a tree for people; real blocks nest to depth 4


def render(name: str, trace: Trace, measures: Parallelism, text_of: TextOf) -> Tree:
    """The tree of ``trace`` with token counts; ``text_of(start, end)`` gives a range's text."""
    root = Tree(
        f"[bold]{escape(name)}[/]  {measures.tokens:,} tokens on a critical path of "
        f"{measures.critical_path_tokens:,}: [bold]{measures.degree:.2f}×[/] parallel, "
        f"{measures.net:.2f}× net"
    )
    _sequence(root, 0, trace.length, trace.blocks, text_of, 1)
    for issue in trace.issues:
        root.add(f"[yellow]{escape(str(issue))}[/]")
    return root


def _sequence(
    node: Tree, start: int, end: int, blocks: Sequence[Block], text_of: TextOf, depth: int
) -> None:
    if depth > _DEEPEST:
        node.add("[yellow]more blocks, nested deeper[/]")
        return
    for block in blocks:
        if block.start > start:
            node.add(f"[dim]text, {block.start - start:,}[/]")
        _block(node.add(_heading(block)), block, text_of, depth)
        start = max(start, block.end)
    if end > start:
        node.add(f"[dim]text, {end - start:,}[/]")


def _heading(block: Block) -> str:
    state = "" if block.joined else ", [yellow]not joined[/]"
    return f"[bold cyan]block[/], goal of {block.goal[1] - block.goal[0]:,}{state}"


def _block(node: Tree, block: Block, text_of: TextOf, depth: int) -> None:
    for i, path in enumerate(block.paths):
        outline = block.outlines[i] if i < len(block.outlines) else None
        title = text_of(outline[0] + 1, outline[1] - 1) if outline else text_of(*_inner(path))
        branch = node.add(f"[cyan]path[/] {_clip(title)} [bold]{path.end - path.start:,}[/]")
        if path.blocks:
            _sequence(branch, path.start, path.end, path.blocks, text_of, depth + 1)
    if block.conclusion is not None:
        start, end = block.conclusion
        node.add(f"[cyan]conclusion[/] [bold]{end - start:,}[/]")


def _inner(path: Path) -> tuple[int, int]:
    return path.start + 1, path.end if path.close is None else path.close - 1


def _clip(text: str) -> str:
    line = " ".join(text.split())
    return escape(line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…")
