"""What people are asked about a corpus: one outermost block at a time."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sglang_multiverse.dialect import MULTIVERSE, Tag

from ..gates.text.located import locate

#: Questions of a review, each answered by yes or no, with what they ask.
QUESTIONS = {
    "independent": "Could each path have been written by someone who sees the question and what "
    "stands before, but none of the other paths?",
    "sound": "Does each outline say what its path does, and the conclusion what the paths come to?",
}

#: Characters of the text before a block that are shown.
_BEFORE = 3000


@dataclass(frozen=True)
class Unit:
    """One block to be judged.

    Attributes:
        item: the row's id.
        block: its number in the row, from 1.
        before: the end of what the text says before it.
        text: the block, from its cue on.
    """

    item: str
    block: int
    question: str
    before: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.item}#{self.block}"


@dataclass
class Texts:
    """Those of texts ``(id, question, text)`` that may have a block, each once, and under an id of
    its own.

    Attributes:
        count: texts, but for those that were left out.
        again: how many were left out, as the same text came before under the same id.
        renamed: ids under which another text came before, with the id that was made of the first.
    """

    given: Iterable[tuple[str, str, str]]
    count: int = 0
    again: int = 0
    renamed: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, str, str]]:
        known: set[tuple[str, bytes]] = set()
        taken: set[str] = set()
        counts: Counter[str] = Counter()
        for item, question, text in self.given:
            if MULTIVERSE[Tag.PARALLEL] not in text:  # its id may be another's, as in a mixture
                self.count += 1
                continue
            mark = item, hashlib.sha256(f"{question}\0{text}".encode()).digest()
            if mark in known:
                self.again += 1
                continue
            known.add(mark)
            key = item
            while key in taken:
                counts[item] += 1
                key = f"{item}#{counts[item] + 1}"
            if key != item:
                self.renamed.setdefault(item, key)
            taken.add(key)
            self.count += 1
            yield key, question, text


def units(texts: Iterable[tuple[str, str, str]]) -> Iterator[Unit]:
    """The outermost blocks of texts ``(id, question, text)``, in order."""
    for item, question, text in texts:
        located = locate(text)
        for number, block in enumerate(located.blocks, start=1):
            start, end = block.span
            before = text[:start].strip()
            shown = before if len(before) <= _BEFORE else f"…{before[-_BEFORE:]}"
            yield Unit(item, number, question, shown, text[start:end].strip())


def sample(all_units: Iterable[Unit], count: int | None, seed: int = 0) -> list[Unit]:
    """``count`` of them, each as likely as any other and in the order given; all where None."""
    if count is None:
        return list(all_units)
    rng = random.Random(seed)
    kept: list[tuple[int, Unit]] = []
    for at, unit in enumerate(all_units):
        if len(kept) < count:
            kept.append((at, unit))
        elif (place := rng.randrange(at + 1)) < count:
            kept[place] = (at, unit)
    return [unit for _, unit in sorted(kept, key=lambda one: one[0])]
