"""Texts made comparable: what is compared, and where each of its characters stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[int, int]

_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"', "&#39;": "'", "&apos;": "'"}
_TOKEN = re.compile(r"&(?:lt|gt|amp|quot|#39|apos);|\s+|.", re.DOTALL)
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
    for start, end in [(0, len(text))] if spans is None else spans:
        if space and out and out[-1] != space:
            out.append(space)
            offsets.append(start)
        for match in _TOKEN.finditer(text, start, end):
            found = match.group()
            char = space if found[0].isspace() else _ENTITIES.get(found, found)
            if not char or (char == space and (not out or out[-1] == space)):
                continue
            out.append(char)
            offsets.append(match.start())
    if space and out and out[-1] == space:
        out.pop()
        offsets.pop()
    return Normal("".join(out).translate(_SAME), offsets)
