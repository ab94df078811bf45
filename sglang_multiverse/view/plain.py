"""A timeline for a terminal: a bar for each lane, to scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

from .lanes import Lane, Timeline

_LONGEST = 32  # of a name: deeper ones lose what they share with the path around them


@dataclass(frozen=True)
class _Signs:
    """What bars are drawn with, by the role of a piece."""

    text: str
    goal: str
    conclusion: str
    line: str
    times: str

    def can(self, encoding: str) -> bool:
        try:
            "".join(astuple(self)).encode(encoding)
        except UnicodeEncodeError:
            return False
        return True


_BLOCKS, _ASCII = _Signs("█", "▓", "▒", "─", "×"), _Signs("#", "+", "=", "-", "x")


def plain(
    timeline: Timeline,
    title: str,
    issues: Sequence[str] = (),
    *,
    width: int = 100,
    encoding: str = "utf-8",
) -> str:
    """A line for each lane: its name, its bar, its label and tokens; bars end at ``width``.

    Args:
        encoding: what the terminal takes; where it has no blocks, bars are of ASCII signs and other
            signs that it lacks are ``?``.
    """
    signs = _BLOCKS if _BLOCKS.can(encoding) else _ASCII
    text = "\n".join(_lines(timeline, line(title), issues, width, signs)) + "\n"
    return text.encode(encoding, "replace").decode(encoding)


def _lines(
    one: Timeline, title: str, issues: Sequence[str], width: int, signs: _Signs
) -> Iterator[str]:
    lanes = list(_in_order(one.trunk))
    names = {lane.path: _name(lane) for lane in lanes}
    left = max(len(name) for name in names.values()) + 2
    columns = max(width - left, 20)
    scale = columns / max(one.tokens, one.critical_path, 1)
    degree = one.tokens / one.critical_path if one.critical_path else 1.0
    yield title
    yield (
        f"{one.tokens:,} tokens on a critical path of {one.critical_path:,}: "
        f"{degree:.2f}{signs.times} parallel, "
        f"{one.forks} forks, {len(one.lanes) - 1} paths, depth {one.depth}"
    )
    yield ""
    for lane in lanes:
        mark = "*" if lane.critical else " "
        bar = _bar(lane, one.base, scale, columns, signs)
        tail = f"  {line(lane.label)} ({lane.tokens:,})" if lane.path else ""
        yield f"{names[lane.path]:<{left - 1}}{mark}{bar}{tail}".rstrip()
    yield f"{'one by one':<{left}}"[:left] + signs.line * max(round(one.tokens * scale), 1)
    yield ""
    yield (
        f"* on the critical path; {signs.text} text, {signs.goal} goal, "
        f"{signs.conclusion} conclusion"
    )
    for issue in issues:
        yield f"! {line(issue)}"


def _in_order(trunk: Lane) -> Iterator[Lane]:
    """A lane before what forks inside it, blocks one after another."""
    work = [trunk]
    while work:
        lane = work.pop()
        yield lane
        work += reversed([inner for fork in lane.forks for inner in fork.lanes])


def _name(lane: Lane) -> str:
    name = "  " * lane.depth + (lane.path or "trunk")
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _bar(lane: Lane, base: int, scale: float, columns: int, signs: _Signs) -> str:
    cells = [" "] * columns
    for piece in lane.pieces:
        first = min(int((piece.position - base) * scale), columns - 1)
        last = min(max(int((piece.end - base) * scale), first + 1), columns)
        cells[first:last] = [getattr(signs, piece.role)] * (last - first)
    return "".join(cells).rstrip()


def line(text: str) -> str:
    """One line that a terminal prints as it stands: no control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:120]


__all__ = ["line", "plain"]
