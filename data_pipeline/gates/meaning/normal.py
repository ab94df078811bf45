"""Texts made comparable: what is compared, and where each of its characters stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

Span = tuple[int, int]

_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"', "&#39;": "'", "&apos;": "'"}
_ESCAPE = re.compile(r"&(?:lt|gt|amp|quot|#39|apos);")
_SPECIAL = re.compile(rf"{_ESCAPE.pattern}|\s+")
_SAME = str.maketrans("“”‘’–—−", "\"\"''---")


@dataclass(frozen=True)
class Normal:
    """A normalised text, and where its characters stand in the original."""

    text: str
    original: str = field(repr=False)
    spans: Sequence[Span] = field(repr=False)
    space: str = " "

    @cached_property
    def offsets(self) -> Sequence[int]:
        """Character ``i`` of ``text`` stands at ``offsets[i]`` of the original."""
        return _offsets(self.original, self.spans, self.space)

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
    spans = [(0, len(text))] if spans is None else spans
    words = " ".join(text[start:end] for start, end in spans).split()
    said = " ".join(words)
    if "&" in said:
        said = _ESCAPE.sub(lambda match: _ENTITIES[match.group()], said)
    return Normal(said.replace(" ", space).translate(_SAME), text, spans, space)


def _offsets(text: str, spans: Sequence[Span], space: str) -> list[int]:
    offsets: list[int] = []
    spaced = True  # a space would be the first, or follow one
    for start, end in spans:
        if space and not spaced:
            offsets.append(start)
            spaced = True
        at = start
        for match in _SPECIAL.finditer(text, start, end):
            if at < match.start():
                offsets.extend(range(at, match.start()))
                spaced = False
            at = match.end()
            if not match.group()[0].isspace():
                offsets.append(match.start())
                spaced = False
            elif space and not spaced:
                offsets.append(match.start())
                spaced = True
        if at < end:
            offsets.extend(range(at, end))
            spaced = False
    if space and spaced and offsets:
        offsets.pop()
    return offsets
