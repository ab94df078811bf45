"""Dialects: which tokens carry structure in a family of checkpoints.

A :class:`DialectSpec` is the written form (tag texts, separator, prompts); a :class:`Dialect` is
a spec bound to the token ids of one tokenizer. Everything downstream works on ids: a tag is
structure only as a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from .turns import Turns


class DialectError(ValueError):
    """A tokenizer does not name exactly one dialect completely."""


class Tag(IntEnum):
    """The twelve structural roles. ``value ^ 1`` turns an opener into its closer and back."""

    THINK = 0
    END_THINK = 1
    PARALLEL = 2
    END_PARALLEL = 3
    GOAL = 4
    END_GOAL = 5
    OUTLINE = 6
    END_OUTLINE = 7
    PATH = 8
    END_PATH = 9
    CONCLUSION = 10
    END_CONCLUSION = 11

    @property
    def is_open(self) -> bool:
        return self % 2 == 0

    @property
    def partner(self) -> Tag:
        return Tag(self ^ 1)


@dataclass(frozen=True)
class DialectSpec:
    """The written form of a dialect; the text of ``Tag(i)`` is ``tags[i]``."""

    name: str
    tags: tuple[str, ...]
    separator: str = "\n"  # what stands between two tags, and after every tag
    after_think: str = "\n\n"  # what stands after </Think>
    cue: str = "Let's think in parallel.\n"  # the sentence before a block
    parallel_prompt: str = "Think step by step and in parallel before answering."
    sequential_prompt: str = "Think step by step before answering."

    def __post_init__(self) -> None:
        if len(self.tags) != len(Tag) or len(set(self.tags)) != len(Tag):
            raise DialectError(f"dialect {self.name!r} needs {len(Tag)} distinct tags")

    def __getitem__(self, tag: Tag) -> str:
        return self.tags[tag]

    def path_header(self, label: str) -> str:
        """What a path begins with: ``<Path>``, separator, its label and a colon."""
        return f"{self[Tag.PATH]}{self.separator}{label}:"


def _pairs(*names: str) -> tuple[str, ...]:
    return tuple(text for name in names for text in (f"<{name}>", f"</{name}>"))


MULTIVERSE = DialectSpec(
    name="multiverse",
    tags=_pairs("Think", "Parallel", "Goal", "Outline", "Path", "Conclusion"),
)

SPECS: tuple[DialectSpec, ...] = (MULTIVERSE,)


class Tokenizer(Protocol):
    """What :meth:`Dialect.from_tokenizer` needs; any Hugging Face tokenizer has it."""

    def get_vocab(self) -> Mapping[str, int]: ...

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> Sequence[int]: ...


MAX_LABEL_TOKENS = 16
_LABELS = 256


@dataclass(frozen=True)
class Dialect:
    """A :class:`DialectSpec` bound to token ids.

    Attributes:
        spec: the written form.
        tag_ids: id of ``Tag(i)`` at index ``i``.
        separator: ids of ``spec.separator``.
        colon: id of the token that ends a label (``1:`` → ``1`` ``:``).
        ordinals: ids of the label ``i + 1`` (no colon) at index ``i``.
        label_alphabet: ids a label may consist of (digits and dots).
        turns: how the chat template frames an assistant's turn, outside of which tags are words;
            None where there is no template: tags count everywhere.
    """

    spec: DialectSpec
    tag_ids: tuple[int, ...]
    separator: tuple[int, ...]
    colon: int
    ordinals: tuple[tuple[int, ...], ...] = field(repr=False)
    label_alphabet: frozenset[int] = field(repr=False)
    turns: Turns | None = None
    tag_of: Mapping[int, Tag] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(set(self.tag_ids)) != len(Tag):
            raise DialectError(f"dialect {self.name!r}: two tags share one token id {self.tag_ids}")
        object.__setattr__(self, "tag_of", {i: Tag(t) for t, i in enumerate(self.tag_ids)})

    @property
    def name(self) -> str:
        return self.spec.name

    def __getitem__(self, tag: Tag) -> int:
        return self.tag_ids[tag]

    # What the engine injects. Order and grouping follow "a separator belongs to what it ends".

    @property
    def goal_tail(self) -> tuple[int, ...]:
        """Follows ``</Goal>``, in the trunk."""
        return self.separator

    def path_seed(self, label: Sequence[int]) -> tuple[int, ...]:
        """Opens a path: ``<Path>``, separator, label, colon."""
        return (self[Tag.PATH], *self.separator, *label, self.colon)

    @property
    def path_tail(self) -> tuple[int, ...]:
        """Follows ``</Path>``, in that path."""
        return self.separator

    @property
    def conclusion_seed(self) -> tuple[int, ...]:
        """Resumes the trunk after the last path: ``<Conclusion>``, separator."""
        return (self[Tag.CONCLUSION], *self.separator)

    def label(self, tokens: Sequence[int]) -> tuple[int, ...] | None:
        """Label ids at the head of an outline's or path's inner ``tokens``, or None.

        ``\\n2.1: …`` gives the ids of ``2.1``.
        """
        at = len(self.separator) if tuple(tokens[: len(self.separator)]) == self.separator else 0
        label: list[int] = []
        for token in tokens[at : at + MAX_LABEL_TOKENS + 1]:
            if token == self.colon:
                return tuple(label) or None
            if token not in self.label_alphabet:
                return None
            label.append(token)
        return None

    def ordinal(self, index: int) -> tuple[int, ...]:
        """Label ids of the ``index``-th path (0-based), for outlines that bear none."""
        return self.ordinals[min(index, len(self.ordinals) - 1)]

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: Tokenizer,
        *,
        name: str | None = None,
        specs: Iterable[DialectSpec] = SPECS,
    ) -> Dialect:
        """Find the dialect whose tags ``tokenizer`` holds as single tokens.

        Args:
            name: take this dialect, whatever else the tokenizer holds.

        Raises:
            DialectError: no dialect, an incomplete one (the missing tags are named), or several.
        """
        specs = tuple(specs)
        vocab = tokenizer.get_vocab()
        known = {spec.name: spec for spec in specs}
        if name is not None:
            if name not in known:
                raise DialectError(f"unknown dialect {name!r}; known: {', '.join(known)}")
            specs = (known[name],)
        complete = [spec for spec in specs if all(text in vocab for text in spec.tags)]
        if len(complete) > 1:
            raise DialectError(
                "the tokenizer holds the tags of several dialects: "
                f"{', '.join(spec.name for spec in complete)}; name the one to use"
            )
        if not complete:
            missing = "; ".join(
                f"{spec.name} lacks {', '.join(t for t in spec.tags if t not in vocab)}"
                for spec in specs
            )
            raise DialectError(
                f"the tokenizer holds no complete dialect ({missing}). Serve a checkpoint that was "
                "trained with these tags, or add them to the tokenizer and train."
            )
        return cls.bind(complete[0], tokenizer)

    @classmethod
    def bind(cls, spec: DialectSpec, tokenizer: Tokenizer) -> Dialect:
        """Bind ``spec`` to a tokenizer that holds all its tags."""
        vocab = tokenizer.get_vocab()

        def ids(text: str) -> tuple[int, ...]:
            return tuple(int(i) for i in tokenizer.encode(text, add_special_tokens=False))

        separator = ids(spec.separator)
        if not separator:
            raise DialectError(f"the tokenizer encodes the separator {spec.separator!r} to nothing")
        numbered = ids("1:")
        colon = numbered[-1]

        def label(text: str) -> tuple[int, ...]:
            encoded = ids(f"{text}:")
            if len(encoded) < 2 or encoded[-1] != colon:
                raise DialectError(
                    f"the tokenizer fuses the colon of '{text}:' with its number; path labels "
                    "need a colon token of their own"
                )
            return encoded[:-1]

        ordinals = [label(str(index)) for index in range(1, _LABELS + 1)]
        alphabet = {i for one in [*ordinals, label("1.1")] for i in one}
        return cls(
            spec=spec,
            tag_ids=tuple(vocab[text] for text in spec.tags),
            separator=separator,
            colon=colon,
            ordinals=tuple(ordinals),
            label_alphabet=frozenset(alphabet - {colon}),
            turns=Turns.from_tokenizer(tokenizer),
        )
