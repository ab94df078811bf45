"""A timeline for a terminal: a bar for each lane, to scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .lanes import Lane, Timeline

_BAR = {"text": "█", "goal": "▓", "conclusion": "▒"}


def plain(timeline: Timeline, title: str, issues: Sequence[str] = (), *, width: int = 100) -> str:
    """A line for each lane: its name, its bar, its label and tokens; bars end at ``width``."""
    return "\n".join(_lines(timeline, _line(title), issues, width)) + "\n"


def _lines(one: Timeline, title: str, issues: Sequence[str], width: int) -> Iterator[str]:
    lanes = list(_in_order(one.trunk))
    names = {lane.path: "  " * lane.depth + (lane.path or "trunk") for lane in lanes}
    left = max(len(name) for name in names.values()) + 2
    columns = max(width - left, 20)
    scale = columns / max(one.tokens, one.critical_path, 1)
    degree = one.tokens / one.critical_path if one.critical_path else 1.0
    yield title
    yield (
        f"{one.tokens:,} tokens on a critical path of {one.critical_path:,}: {degree:.2f}× "
        f"parallel, {one.forks} forks, {len(one.lanes) - 1} paths, depth {one.depth}"
    )
    yield ""
    for lane in lanes:
        mark = "*" if lane.critical else " "
        bar = _bar(lane, one.base, scale)
        tail = f"  {_line(lane.label)} ({lane.tokens:,})" if lane.path else ""
        yield f"{names[lane.path]:<{left - 1}}{mark}{bar}{tail}".rstrip()
    yield f"{'one by one':<{left}}"[:left] + "─" * max(round(one.tokens * scale), 1)
    yield ""
    yield "* on the critical path; █ text, ▓ goal, ▒ conclusion"
    for issue in issues:
        yield f"! {_line(issue)}"


def _in_order(trunk: Lane) -> Iterator[Lane]:
    """A lane before what forks inside it, blocks one after another."""
    work = [trunk]
    while work:
        lane = work.pop()
        yield lane
        work += reversed([inner for fork in lane.forks for inner in fork.lanes])


def _bar(lane: Lane, base: int, scale: float) -> str:
    cells: dict[int, str] = {}
    for piece in lane.pieces:
        first = int((piece.position - base) * scale)
        last = max(int((piece.end - base) * scale), first + 1)
        cells |= dict.fromkeys(range(first, last), _BAR[piece.role])
    return "".join(cells.get(i, " ") for i in range(max(cells, default=-1) + 1))


def _line(text: str) -> str:
    """One line that a terminal prints as it stands: no control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:120]


__all__ = ["plain"]
