"""A timeline as a picture: one SVG file, for a README or a paper. It follows the viewer's theme.

Every word of the model goes through :func:`html.escape`; the file holds no script.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from .geometry import colour, rows
from .lanes import Fork, Lane, Piece, Timeline

ROW, BAR, BAR_TOP, TOP, MARGIN = 40, 16, 18, 46, 16
CHARACTER = 6.2  # width of one in a label, roughly

_LIGHT = ("#3f7fd9", "#16a394", "#9a63d8", "#d98a1f", "#c9558f", "#5a9e3a", "#3a9fc4", "#a5743f")
_DARK = ("#5a9bf0", "#2fc0ae", "#b284ec", "#e8a549", "#e277ac", "#7bc159", "#58bbdf", "#c59562")

_STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#667085}"
    ".name{fill:#1c2430}.head{font-size:14px;font-weight:600;fill:#1c2430}"
    ".trunk{fill:#8492a8}.goal,.conclusion{fill:#5d6b82}.region{fill:#5b6b84;opacity:.08}"
    ".link{fill:none;stroke:#a3adbd;stroke-width:1.3}.critical{stroke:#e0472f;stroke-width:2}"
    ".chain{fill:#e0472f}.saved{fill:#e0472f}.end{stroke:#e0472f;stroke-dasharray:3 3}"
    + "".join(f".c{i}{{fill:{one}}}" for i, one in enumerate(_LIGHT))
    + "@media(prefers-color-scheme:dark){text{fill:#97a3b6}.name,.head{fill:#e6eaf0}"
    ".trunk{fill:#64728a}.goal,.conclusion{fill:#94a3bc}.region{fill:#9fb4d8}"
    ".link{stroke:#5c687b}.critical{stroke:#ff7a5c}.chain,.saved{fill:#ff7a5c}.end{stroke:#ff7a5c}"
    + "".join(f".c{i}{{fill:{one}}}" for i, one in enumerate(_DARK))
    + "}"
)


def svg(timeline: Timeline, title: str, issues: Sequence[str] = (), *, width: int = 960) -> str:
    """The picture, ``width`` units wide: lanes by position, below them the same one after another.

    Args:
        title: plain text over the picture.
        issues: departures from the canonical form; the picture says how many.
    """
    return "\n".join([*_Drawing(timeline, width).lines(title, issues), "</svg>"]) + "\n"


class _Drawing:
    def __init__(self, timeline: Timeline, width: int):
        self.timeline = timeline
        self.width = width
        self.rows = rows(timeline)
        self.scale = (width - 2 * MARGIN) / max(timeline.tokens, timeline.critical_path, 1)
        self.bottom = TOP + self.rows.height[""] * ROW + 12

    def x(self, position: int) -> float:
        return round(MARGIN + (position - self.timeline.base) * self.scale, 2)

    def y(self, lane: Lane) -> float:
        return TOP + self.rows.row[lane.path] * ROW + BAR_TOP

    def lines(self, title: str, issues: Sequence[str]) -> Iterator[str]:
        one = self.timeline
        height = self.bottom + 26 + BAR + MARGIN
        said = f"{one.tokens:,} tokens on a critical path of {one.critical_path:,}"
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height}" '
            f'width="{self.width}" height="{height}" role="img">'
        )
        yield f"<title>{_text(title)}: {said}</title><style>{_STYLE}</style>"
        yield _words(MARGIN, 22, _clip(title, self.width - 420), kind="head")
        degree = one.tokens / one.critical_path if one.critical_path else 1.0
        odd = f", {len(issues)} departures from the canonical form" if issues else ""
        yield _words(self.width - MARGIN, 22, f"{said}: {degree:.2f}× parallel{odd}", anchor="end")
        end = self.x(one.trunk.end)
        yield f'<line class="end" x1="{end}" x2="{end}" y1="{TOP - 8}" y2="{self.bottom - 8}"/>'
        for lane in one.lanes:
            for fork in lane.forks:
                yield from self._fork(lane, fork)
        for lane in one.lanes:
            yield from self._lane(lane)
        yield from self._sequence()

    def _fork(self, lane: Lane, fork: Fork) -> Iterator[str]:
        start, end = self.x(fork.position), self.x(fork.end)
        tall = sum(self.rows.height[one.path] for one in fork.lanes) * ROW
        top = TOP + (self.rows.row[lane.path] + 1) * ROW
        yield (
            f'<rect class="region" x="{start - 4:.2f}" y="{top + 1}" rx="6" '
            f'width="{end - start + 8:.2f}" height="{max(tall - 2, 0)}"/>'
        )
        middle = self.y(lane) + BAR / 2
        for one in fork.lanes:
            at, close = self.y(one) + BAR / 2, self.x(one.end)
            d = _curve(start - 9, middle, start, at)
            if fork.joined is not None:
                d += f"M{close},{at}H{end}" + _curve(end, at, end + 9, middle)
            yield f'<path class="link{" critical" if one.critical else ""}" d="{d}"/>'

    def _lane(self, lane: Lane) -> Iterator[str]:
        kind = f"c{colour(lane.index, lane.depth)}" if lane.path else "trunk"
        yield (
            f'<g data-path="{_text(lane.path)}" data-tokens="{lane.tokens}" '
            f'data-position="{lane.position}">'
        )
        y = self.y(lane)
        if lane.path:
            room = self.x(lane.end) - self.x(lane.position)
            label = _clip(lane.label or lane.path, max(room, 8 * CHARACTER))
            yield _words(self.x(lane.position), y - 5, label, kind="name")
        for piece in lane.pieces:
            yield self._bar(piece, kind, self.x(piece.position), y)
            if lane.critical:
                yield (
                    f'<rect class="chain" x="{self.x(piece.position)}" y="{y + BAR + 2}" '
                    f'width="{piece.tokens * self.scale:.2f}" height="3"/>'
                )
        yield "</g>"

    def _bar(self, piece: Piece, kind: str, x: float, y: float) -> str:
        role = piece.role if piece.role != "text" and kind == "trunk" else kind
        name = f"path {piece.path}" if piece.path else "trunk"
        return (
            f'<rect class="{role}" x="{x}" y="{y}" rx="2.5" height="{BAR}" '
            f'width="{piece.tokens * self.scale:.2f}">'
            f"<title>{_text(name)}, {piece.role}: {piece.tokens:,} tokens</title></rect>"
        )

    def _sequence(self) -> Iterator[str]:
        one, y = self.timeline, self.bottom + 22
        yield _words(MARGIN, y - 7, f"one after another: {one.tokens:,} tokens")
        saved = one.tokens - one.critical_path
        if saved * self.scale > 120:
            x = self.x(one.base + one.critical_path) + 6
            yield _words(x, self.bottom - 16, f"{saved:,} steps saved", kind="saved")
        kinds = {lane.path: f"c{colour(lane.index, lane.depth)}" for lane in one.lanes if lane.path}
        at = one.base
        for piece in one.in_text_order():
            yield self._bar(piece, kinds.get(piece.path, "trunk"), self.x(at), y)
            at += piece.tokens


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    return f"M{x:.2f},{y}C{to_x:.2f},{y} {x:.2f},{to_y} {to_x:.2f},{to_y}"


def _words(x: float, y: float, text: str, *, kind: str = "", anchor: str = "") -> str:
    more = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x}" y="{y}"{more}>{_text(text)}</text>'


def _text(text: str) -> str:
    """For XML: no markup, and no character that XML 1.0 forbids."""
    return html.escape("".join(c if c in "\t\n" or _allowed(c) else "\ufffd" for c in text))


def _allowed(c: str) -> bool:
    return " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c >= "\U00010000"


def _clip(text: str, width: float) -> str:
    line, room = " ".join(text.split()), int(width / CHARACTER)
    return line if len(line) <= room else line[: max(room - 1, 0)] + "…"


__all__ = ["svg"]
