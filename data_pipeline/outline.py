"""The outline of a reasoning chain: a tree of steps in which independent ones are grouped.

The written form is one step a line, structure by labels and by tags that stand alone on a line::

    S1: Understand the problem
    <parallel>
    Reason: neither case needs the other.
    <branch>
    S2: The even case
    S2.1: Its lower bound
    S2.2: Its upper bound
    </branch>
    <branch>
    S3: The odd case
    S4: Check of the odd case
    </branch>
    </parallel>
    S5: Compare

A group without ``<branch>`` takes each of its steps as a branch. ``S2.1`` belongs to ``S2``
wherever indentation puts it. After the fill, the lines under a label are the source's sentences.
"""

from __future__ import annotations

from dataclasses import dataclass

from .finding import Finding


@dataclass(frozen=True)
class Step:
    """One step: its label (``S2`` or ``S2.1``), its text, and its substeps and their groups."""

    label: str
    text: str
    parts: tuple[Step | Group, ...] = ()
    span: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Group:
    """Branches that need nothing of one another; each is a run of adjacent steps."""

    branches: tuple[tuple[Step | Group, ...], ...]
    reason: str = ""
    span: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Outline:
    """The tree. ``text`` is what it was read from, ``issues`` what reading met in it."""

    parts: tuple[Step | Group, ...]
    text: str = ""
    issues: tuple[Finding, ...] = ()


def parse_outline(text: str) -> Outline:
    """The outline of ``text``, as the LLM gave it or filled it. Never raises: what could not be
    read is in ``Outline.issues``, which ``check_outline`` reports."""
    raise NotImplementedError
