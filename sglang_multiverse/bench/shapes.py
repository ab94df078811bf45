"""Shapes of parallel texts: synthetic ones of a wanted degree, and those of real traces.

A shape says how many tokens stand where, and what forks; :class:`Author` writes a text of a shape
in ordinary tokens of a tokenizer and its dialect's tags, in canonical form.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..dialect import Dialect, Tag
from ..layout import layout_of
from ..lexer import lex
from ..structure import Block, Trace, parse

#: Tokens of an outline after its label.
OUTLINE = 6
#: Tokens of a conclusion.
CONCLUSION = 8


@dataclass(frozen=True)
class Fork:
    """One block: tokens of each outline, the paths, tokens of the conclusion."""

    outlines: tuple[int, ...]
    paths: tuple[Shape, ...]
    conclusion: int


@dataclass(frozen=True)
class Shape:
    """One sequence: runs of so many tokens of text, and blocks, in text order."""

    items: tuple[int | Fork, ...]

    def scaled(self, factor: float) -> Shape:
        """The same tree with every run of text ``factor`` times as long, at least one token."""

        def run(tokens: int) -> int:
            return max(1, round(tokens * factor)) if tokens else 0

        def fork(one: Fork) -> Fork:
            return Fork(
                tuple(run(tokens) for tokens in one.outlines),
                tuple(path.scaled(factor) for path in one.paths),
                run(one.conclusion),
            )

        return Shape(tuple(run(i) if isinstance(i, int) else fork(i) for i in self.items))

    @property
    def text(self) -> int:
        """Tokens of text in all."""
        return sum(
            item
            if isinstance(item, int)
            else sum(item.outlines) + item.conclusion + sum(path.text for path in item.paths)
            for item in self.items
        )


def plain(tokens: int) -> Shape:
    return Shape((tokens,))


def forked(paths: int, length: int, *, around: int) -> Shape:
    """One block of ``paths`` paths of ``length`` tokens, ``around`` tokens of text before and after
    it together."""
    fork = Fork((OUTLINE,) * paths, (plain(length),) * paths, CONCLUSION)
    return Shape((max(1, around // 2), fork, max(1, around - around // 2)))


def of_trace(text: str) -> Shape | None:
    """The shape of a real trace, in the lexer's pieces; None where no block was finished."""
    lexed = lex(text)
    trace = parse(lexed.ids, lexed.dialect)
    tags = lexed.dialect.tag_of

    def words(start: int, end: int) -> int:
        return sum(1 for i in lexed.ids[start:end] if int(i) not in tags)

    def sequence(start: int, end: int, blocks: list[Block]) -> Shape:
        items: list[int | Fork] = []
        for block in blocks:
            if not block.joined or block.conclusion is None:
                continue
            items.append(words(start, block.start))
            paths = tuple(
                sequence(path.start, path.close or path.end, path.blocks) for path in block.paths
            )
            items.append(
                Fork(
                    tuple(max(1, words(a, b)) for a, b in block.outlines),
                    paths,
                    words(*block.conclusion),
                )
            )
            start = block.end
        items.append(words(start, end))
        return Shape(tuple(items))

    shape = sequence(0, trace.length, trace.blocks)
    return shape if any(isinstance(item, Fork) for item in shape.items) else None


@dataclass(frozen=True)
class Script:
    """A text to be written, token by token.

    Attributes:
        name: what it is a case of.
        ids: prompt, answer and the end of text.
        prompt_len: tokens of the prompt.
    """

    name: str
    ids: tuple[int, ...]
    prompt_len: int
    dialect: Dialect

    @property
    def prompt(self) -> list[int]:
        return list(self.ids[: self.prompt_len])

    @property
    def answer(self) -> list[int]:
        return list(self.ids[self.prompt_len :])

    @cached_property
    def trace(self) -> Trace:
        return parse(self.ids, self.dialect)

    @cached_property
    def critical_path(self) -> int:
        """Tokens of the answer's critical path, the end of text included."""
        return layout_of(self.trace).critical_path - self.prompt_len

    @property
    def degree(self) -> float:
        """Generated tokens ÷ critical-path tokens."""
        return (len(self.ids) - self.prompt_len) / self.critical_path


class Author:
    """Writes texts of shapes in a tokenizer's words."""

    def __init__(self, tokenizer: Any, dialect: Dialect | None = None):
        self.dialect = dialect or Dialect.from_tokenizer(tokenizer)
        special = {*self.dialect.tag_ids, *tokenizer.all_special_ids, self.dialect.colon}
        special |= self.dialect.label_alphabet
        self.words = [i for i in range(len(tokenizer)) if i not in special]
        self.eos = int(tokenizer.eos_token_id)
        self._tokenizer = tokenizer

    def write(self, shape: Shape, seed: int, *, name: str = "", prompt: int = 24) -> Script:
        """A text of ``shape`` after a prompt of so many tokens."""
        rng = random.Random(seed)
        head = self._text(rng, prompt)
        body = self._sequence(rng, shape, "")
        return Script(name, (*head, *body, self.eos), prompt, self.dialect)

    def of_degree(
        self, degree: float, length: int, seed: int, *, name: str = "", prompt: int = 24
    ) -> Script:
        """A text of about this degree of parallelism whose paths have ``length`` tokens.

        Below 1.05 it has no block, and twice as many tokens as a path.
        """
        if degree < 1.05:
            return self.write(plain(2 * length), seed, name=name, prompt=prompt)
        paths = paths_for(degree)
        shape = forked(paths, length, around=2)
        script = self.write(shape, seed, name=name, prompt=prompt)
        tokens, critical = len(script.ids) - prompt, script.critical_path
        # (tokens + x) / (critical + x) = degree
        around = max(2, 2 + round((tokens - degree * critical) / (degree - 1)))
        items = (around // 2, *shape.items[1:2], around - around // 2)
        return self.write(replace(shape, items=items), seed, name=name, prompt=prompt)

    def _text(self, rng: random.Random, tokens: int) -> list[int]:
        return [rng.choice(self.words) for _ in range(tokens)]

    def _sequence(self, rng: random.Random, shape: Shape, label: str) -> Iterator[int]:
        number = 0
        for item in shape.items:
            if isinstance(item, int):
                yield from self._text(rng, item)
            else:
                yield from self._block(rng, item, label)
                number += 1

    def _block(self, rng: random.Random, fork: Fork, label: str) -> Iterator[int]:
        one, separator = self.dialect, self.dialect.separator

        def tag(which: Tag) -> tuple[int, ...]:
            return (one[which], *separator)

        labels = [
            self._tokenizer.encode(f"{label}{i + 1}", add_special_tokens=False)
            for i in range(len(fork.paths))
        ]
        yield from (*tag(Tag.PARALLEL), *tag(Tag.GOAL))
        for i, ids in enumerate(labels):
            length = fork.outlines[min(i, len(fork.outlines) - 1)]
            yield from (*tag(Tag.OUTLINE), *ids, one.colon, *self._text(rng, length), *separator)
            yield from tag(Tag.END_OUTLINE)
        yield from tag(Tag.END_GOAL)
        for i, (ids, path) in enumerate(zip(labels, fork.paths, strict=True)):
            yield from one.path_seed(ids)
            yield from self._sequence(rng, path, f"{label}{i + 1}.")
            yield from tag(Tag.END_PATH)
        yield from (*one.conclusion_seed, *self._text(rng, fork.conclusion))
        yield from (*tag(Tag.END_CONCLUSION), *tag(Tag.END_PARALLEL))


def paths_for(degree: float) -> int:
    """How many equal paths a text of this degree has here: more than the degree, 8 at most."""
    return min(8, max(2, int(degree * 1.25) + 1))
