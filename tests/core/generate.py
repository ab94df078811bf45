"""Random texts with known structure: a text is made of items, and so is every path in it.

Sizes are drawn apart from the seed, so that a failing example shrinks to a short text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from hypothesis import strategies as st

from sglang_multiverse.dialect import MULTIVERSE, Dialect, Tag

NEWLINE, COLON, DOT, ZERO, WORD = 20, 21, 22, 30, 50

#: A dialect with ids of no particular order: tags 0..11, a newline, a colon, digits, words.
DIALECT = Dialect(
    spec=MULTIVERSE,
    tag_ids=tuple(range(12)),
    separator=(NEWLINE,),
    colon=COLON,
    ordinals=tuple(tuple(ZERO + int(d) for d in str(i)) for i in range(1, 257)),
    label_alphabet=frozenset([DOT, *range(ZERO, ZERO + 10)]),
)


@dataclass
class MadePath:
    """``<Path>`` seed, body, ``</Path>``, and the gap that belongs to the path."""

    head: list[int]
    body: Made
    tail: list[int]


@dataclass
class MadeBlock:
    """Opening tokens up to the first path, the paths, and what follows in the trunk."""

    opening: list[int]
    paths: list[MadePath]
    closing: list[int]


@dataclass
class Made:
    """A sequence of text runs and blocks."""

    items: list[list[int] | MadeBlock] = field(default_factory=list)

    def tokens(self) -> list[int]:
        return [token for token, _ in self.walk(())]

    def walk(self, address: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, tuple]]:
        """Every token in text order with its address: (block, path) from the outermost in."""
        for item in self.items:
            if isinstance(item, list):
                yield from ((token, address) for token in item)
                continue
            yield from ((token, address) for token in item.opening)
            for i, path in enumerate(item.paths):
                inside = (*address, (id(item), i))
                yield from ((token, inside) for token in path.head)
                yield from path.body.walk(inside)
                yield from ((token, inside) for token in path.tail)
            yield from ((token, address) for token in item.closing)

    def blocks(self) -> Iterator[tuple[MadeBlock, int]]:
        """Every block with its depth, parents first, in text order."""
        for item in self.items:
            if isinstance(item, MadeBlock):
                yield item, 1
                for path in item.paths:
                    yield from ((block, depth + 1) for block, depth in path.body.blocks())


class _Maker:
    def __init__(self, seed: int, words: int, blocks: int, canonical: bool):
        self.random = Random(seed)
        self.words = words
        self.left = blocks
        self.canonical = canonical

    def text(self) -> list[int]:
        n = self.random.randint(0, self.words)
        return [self.random.randint(WORD, WORD + 5) for _ in range(n)]

    def gap(self) -> list[int]:
        if self.canonical:
            return [NEWLINE]
        choices = (NEWLINE, NEWLINE, WORD, COLON)
        return [self.random.choice(choices) for _ in range(self.random.choice((0, 1, 1, 1, 2, 3)))]

    def sequence(self, depth: int) -> Made:
        made = Made([self.text()])
        while depth and self.left and self.random.random() < 0.7:
            self.left -= 1
            made.items += [self.block(depth), self.text()]
        return made

    def block(self, depth: int) -> MadeBlock:
        n = self.random.choice((2, 2, 2, 3, 4))
        opening = [Tag.PARALLEL, *self.gap(), Tag.GOAL, *self.gap()]
        for i in range(1, n + 1):
            opening += [Tag.OUTLINE, NEWLINE, ZERO + i, COLON, *self.text()]
            opening += [Tag.END_OUTLINE, *self.gap()]
        opening += [Tag.END_GOAL, *self.gap()]
        if not self.canonical:
            n = max(1, n + self.random.choice((0, 0, 0, -1, 1)))
        paths = [
            MadePath(
                [Tag.PATH, NEWLINE, ZERO + i, COLON],
                self.sequence(depth - 1),
                [Tag.END_PATH, *self.gap()],
            )
            for i in range(1, n + 1)
        ]
        closing = [Tag.CONCLUSION, NEWLINE, *self.text(), Tag.END_CONCLUSION, *self.gap()]
        return MadeBlock([int(t) for t in opening], paths, [*closing, Tag.END_PARALLEL])


def make(
    seed: int, *, depth: int, words: int = 3, blocks: int = 6, canonical: bool = False
) -> Made:
    """One random text. ``canonical`` has one separator between tags and as many paths as
    outlines; otherwise gaps have 0 to 3 tokens and paths may be one too few or too many."""
    return _Maker(seed, words, blocks, canonical).sequence(depth)


@st.composite
def made_texts(draw: st.DrawFn, *, canonical: bool | None = None, min_depth: int = 0) -> Made:
    """Random texts with blocks nested to depth 4."""
    return make(
        draw(st.integers(0, 2**32 - 1)),
        depth=draw(st.integers(min_depth, 4)),
        words=draw(st.integers(0, 5)),
        blocks=draw(st.integers(0, 7)),
        canonical=draw(st.booleans()) if canonical is None else canonical,
    )


#: Grammar fragments, so that random tags do come to fork and nest.
_FRAGMENTS = (
    [Tag.PARALLEL, NEWLINE, Tag.GOAL],
    [Tag.OUTLINE, NEWLINE, ZERO + 1, COLON, WORD, Tag.END_OUTLINE],
    [Tag.PARALLEL, Tag.GOAL, *[Tag.OUTLINE, Tag.END_OUTLINE] * 2, Tag.END_GOAL],
    [Tag.PATH, NEWLINE, ZERO + 1, COLON],
    [Tag.END_PATH, NEWLINE, Tag.PATH],
    [Tag.END_PATH, NEWLINE, Tag.CONCLUSION],
    [Tag.END_CONCLUSION, NEWLINE, Tag.END_PARALLEL],
)


@st.composite
def tag_soup(draw: st.DrawFn, max_size: int = 40) -> list[int]:
    """Tags, fragments of blocks and words in any order: what a model may emit."""
    piece = st.one_of(
        st.sampled_from(_FRAGMENTS),
        st.sampled_from([[int(tag)] for tag in Tag]),
        st.sampled_from([[NEWLINE], [COLON], [ZERO + 2], [WORD], [WORD + 1, WORD]]),
    )
    return [int(t) for part in draw(st.lists(piece, max_size=max_size)) for t in part]
