"""Text → tokens under the lexical rule: a tag is structure only where a line consists of it.

Two kinds of tokens come out of here: pieces of text, for work that has no tokenizer at hand
(:func:`lex`), and the ids of a real tokenizer (:func:`encode`). Both feed
:func:`sglang_multiverse.structure.parse`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import repeat

import numpy as np
import numpy.typing as npt

from .dialect import MULTIVERSE, Dialect, DialectSpec, Tag, Tokenizer

# Words with the sign or space before them, single digits, runs of signs, line ends: close to how
# byte-level BPE vocabularies split text. A colon stands alone, because it ends a path's label.
_PIECE = re.compile(r":|[^\w\r\n:]?[^\W\d_]+|\d| ?(?:[^\s\w:]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

_SEPARATOR, _COLON, _DOT, _ZERO = 12, 13, 14, 15
_OTHER = _ZERO + 10


@dataclass(frozen=True)
class Lexed:
    """Text cut into pieces, with pseudo-token ids that carry just what structure needs.

    Attributes:
        pieces: strings that concatenate to the text; a structural tag is a piece of its own.
        ids: pseudo-token id of each piece, shape ``(n,)``.
        dialect: the dialect of these ids.
    """

    pieces: tuple[str, ...]
    ids: npt.NDArray[np.int64]
    dialect: Dialect

    def text(self, start: int, end: int) -> str:
        """The text of pieces ``[start, end)``."""
        return "".join(self.pieces[start:end])


@cache
def _tag_line(spec: DialectSpec) -> re.Pattern[str]:
    tags = "|".join(re.escape(tag) for tag in spec.tags)
    return re.compile(rf"^[ \t]*({tags})(?=[ \t\r]*$)", re.MULTILINE)


@cache
def _pseudo_dialect(spec: DialectSpec) -> Dialect:
    return Dialect(
        spec=spec,
        tag_ids=tuple(range(len(Tag))),
        separator=(_SEPARATOR,),
        colon=_COLON,
        ordinals=tuple(tuple(_ZERO + int(d) for d in str(i)) for i in range(1, 257)),
        label_alphabet=frozenset([_DOT, *range(_ZERO, _ZERO + 10)]),
    )


def split_tags(text: str, spec: DialectSpec = MULTIVERSE) -> Iterator[tuple[str, Tag | None]]:
    """Cut ``text`` at its structural tags: ``(string, role)``, role None for what is between."""
    at = 0
    for match in _tag_line(spec).finditer(text):
        start, end = match.span(1)
        if start > at:
            yield text[at:start], None
        yield match.group(1), Tag(spec.tags.index(match.group(1)))
        at = end
    if at < len(text):
        yield text[at:], None


def lex(text: str, spec: DialectSpec = MULTIVERSE) -> Lexed:
    """Cut ``text`` into pseudo tokens, in time linear in its length."""
    known = {spec.separator: _SEPARATOR, ":": _COLON, ".": _DOT}
    known.update((str(digit), _ZERO + digit) for digit in range(10))
    pieces: list[str] = []
    ids: list[int] = []
    for string, tag in split_tags(text, spec):
        if tag is not None:
            pieces.append(string)
            ids.append(int(tag))
            continue
        cut: list[str] = _PIECE.findall(string)
        pieces += cut
        ids += map(known.get, cut, repeat(_OTHER))
    return Lexed(tuple(pieces), np.asarray(ids, dtype=np.int64), _pseudo_dialect(spec))


def encode(text: str, tokenizer: Tokenizer, dialect: Dialect) -> list[int]:
    """Token ids of ``text``, tags as single tokens exactly where they are structure.

    A tag used as a word is encoded like any other word, so that the structure of the ids is the
    structure of the text. No special tokens are added.
    """
    ids: list[int] = []
    for string, tag in split_tags(text, dialect.spec):
        if tag is not None:
            ids.append(dialect[tag])
            continue
        for part in _without_tags(string, dialect.spec):
            ids.extend(int(i) for i in tokenizer.encode(part, add_special_tokens=False))
    return ids


def _without_tags(text: str, spec: DialectSpec) -> Iterator[str]:
    """Cut ``text`` inside every tag used as a word, so that no part holds a whole tag."""
    at = 0
    for match in re.finditer("|".join(re.escape(tag) for tag in spec.tags), text):
        yield text[at : match.start() + 1]
        at = match.start() + 1
    if at < len(text):
        yield text[at:]
