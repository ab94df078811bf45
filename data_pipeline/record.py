"""What goes through the stages: one reasoning chain and what has been made of it so far."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .finding import Finding
from .outline import Outline


@dataclass(frozen=True)
class Passage:
    """What becomes of one outermost group of an outline.

    Attributes:
        plain: what the source says in its place.
        laid_out: what its branches say, one after another.
        marked: whether that is more than ``plain``, or in another order, since sentences are
            repeated or split.
    """

    plain: str
    laid_out: str
    marked: bool


@dataclass(frozen=True)
class Record:
    """One item on its way through the stages.

    Attributes:
        id: hash of question and chain, see :func:`item_id`.
        question: what was asked, without any prompt suffix.
        source: the sequential reasoning chain.
        attempt: the answer that followed the chain, to the user.
        answer: the reference answer, where the dataset has one.
        outline: tree of steps and groups, after the outline stage.
        filled: the same tree over the source's sentences, after the fill stage.
        text: canonical trace (``<Think>…</Think>`` and answer), from the draft on.
        proposed: outermost blocks of the draft.
        passages: the source in pieces, one for each outermost group or block of ``text``.
        notes: findings that were accepted: what was kept as drafted or undone.
        details: what else the store is to keep of it, as JSON.
    """

    id: str
    question: str
    source: str
    attempt: str = ""
    answer: str | None = None
    outline: Outline | None = None
    filled: Outline | None = None
    text: str = ""
    proposed: int = 0
    passages: tuple[str | Passage, ...] = ()
    notes: tuple[Finding, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def reference(self) -> str:
        """What gates compare ``text`` with: the source, as it was laid out where a block has
        sentences that are split or repeated."""
        if not any(isinstance(one, Passage) and one.marked for one in self.passages):
            return self.source
        return "".join(one if isinstance(one, str) else one.laid_out for one in self.passages)


@dataclass(frozen=True)
class Rejection:
    """Why an item is left out. ``code`` is counted, ``span`` counts characters of the text that
    was checked (a reply, a document) or of the source, as ``message`` says."""

    stage: str
    code: str
    message: str
    span: tuple[int, int] | None = None
    findings: tuple[Finding, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, stage: str, findings: list[Finding]) -> Rejection:
        """The rejection that ``findings``, of which there is at least one, come to."""
        first = findings[0]
        return cls(stage, first.code, first.message, first.span, tuple(findings))


def item_id(question: str, chain: str = "") -> str:
    """Sixteen hex digits of the SHA-256 of question and chain; white space does not count.

    >>> item_id("What is 1 + 1?", "Two.") == item_id(" What is  1 + 1?\\n", "Two. ")
    True
    """
    normal = "\0".join(re.sub(r"\s+", " ", text).strip() for text in (question, chain) if text)
    return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()[:16]
