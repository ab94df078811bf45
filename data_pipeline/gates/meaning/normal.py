"""Texts made comparable: what is compared, and where each of its characters stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Span = tuple[int, int]

_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"', "&#39;": "'", "&apos;": "'"}
_SPECIAL = re.compile(r"&(?:lt|gt|amp|quot|#39|apos);|\s+")
_SAME = str.maketrans("“”‘’–—−", "\"\"''---")


@dataclass(frozen=True)
class Normal:
    """A normalised text; character ``i`` of ``text`` stands at ``offsets[i]`` of the original."""

    text: str
    offsets: Sequence[int]

    def span(self, start: int, end: int) -> Span:
        """Where characters ``[start, end)`` stand in the original."""
        if not self.offsets:
            return 0, 0
        if start >= end:
            at = self.offsets[min(start, len(self.offsets) - 1)]
            return at, at
        return self.offsets[start], self.offsets[end - 1] + 1


def normal(text: str, spans: Sequence[Span] | None = None, *, space: str = " ") -> Normal:
    """``text`` (or just ``spans`` of it, as if on lines of their own) without what does not count.

    Escapes of XML are undone, typographic quotes and dashes made plain, and every run of white
    space becomes ``space``.
    """
    out: list[str] = []
    offsets: list[int] = []
    spaced = True  # a space would be the first, or follow one

    def put(string: str, at: Iterable[int]) -> None:
        out.append(string)
        offsets.extend(at)

    for start, end in [(0, len(text))] if spans is None else spans:
        if space and not spaced:
            put(space, [start])
            spaced = True
        at = start
        for match in _SPECIAL.finditer(text, start, end):
            if at < match.start():
                put(text[at : match.start()], range(at, match.start()))
                spaced = False
            at = match.end()
            found = match.group()
            if not found[0].isspace():
                put(_ENTITIES[found], [match.start()])
                spaced = False
            elif space and not spaced:
                put(space, [match.start()])
                spaced = True
        if at < end:
            put(text[at:end], range(at, end))
            spaced = False
    if space and spaced and out:
        out.pop()
        offsets.pop()
    return Normal("".join(out).translate(_SAME), offsets)
