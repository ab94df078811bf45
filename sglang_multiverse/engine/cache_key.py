"""Prefix-cache keys that name the layout.

The KV of a token that stands behind sibling paths was computed under another mask and other
positions than a causal text of the same tokens has. In the key of such a text every token from the
first of them on carries a mark of its segment (where it starts, at what position, what it sees), so
two keys agree on a prefix only where the KV does: a causal text finds the causal part, a text laid
out alike finds all of it, and the tree that holds the keys needs to know nothing of layouts.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import numpy as np

from ..layout import Segment

#: Token ids take the low bits of a key, the mark those above; the sign stays free.
TOKEN_BITS = 24
MARK_BITS = 38


def cache_key(tokens: array[int], segments: Sequence[Segment]) -> array[int]:
    """The key of a text.

    Args:
        tokens: ids below ``2**TOKEN_BITS``, typecode ``q``.
        segments: of the text or of one that it begins, as
            :func:`~sglang_multiverse.layout.segments` gives them.

    Returns:
        ``tokens`` itself for a causal text; else an array of the same length.
    """
    if len(segments) < 2 or segments[1].start >= len(tokens):
        return tokens
    key = np.array(tokens, dtype=np.int64)
    for segment in segments[1:]:
        if segment.start >= len(key):
            break
        key[segment.start : segment.end] |= _mark(segment) << TOKEN_BITS
    return array("q", key.tobytes())


def _mark(segment: Segment) -> int:
    place = np.array([segment.start, segment.position, *_flat(segment.prefix)], dtype=np.int64)
    digest = hashlib.blake2b(place.tobytes(), digest_size=8).digest()
    # Never 0, which is the causal text's.
    return int.from_bytes(digest, "little") & ((1 << MARK_BITS) - 1) or 1


def _flat(ranges: Sequence[tuple[int, int]]) -> list[int]:
    return [bound for one in ranges for bound in one]


__all__ = ["MARK_BITS", "TOKEN_BITS", "cache_key"]
