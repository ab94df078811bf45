"""What humans make of an LLM's list: its precision, and how far the humans agree."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from .implicit import LABELS
from .intervals import wilson


@dataclass(frozen=True)
class Judgement:
    """What one annotator says of one instance. ``right`` None: not judged; ``label`` empty: none
    given; ``traces``: how many were analysed in all."""

    trace: str
    instance: int
    span: tuple[int, int]
    branches: int
    traces: int
    llm_label: str
    annotator: str
    right: bool | None
    label: str

    @property
    def key(self) -> tuple[str, int, tuple[int, int]]:
        return self.trace, self.instance, self.span

    @property
    def category(self) -> str:
        """``no``, or the label."""
        return (self.label or "unlabelled") if self.right else "no"


def summarise(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Precision, agreement, branches and coverage as one JSON object.

    An instance is right if more of its annotators say so than do not; a tie counts against it.
    Branches per trace and coverage rest on what was judged right, so they are lower bounds while
    instances are unjudged.
    """
    by_key: dict[Any, dict[str, Judgement]] = defaultdict(dict)
    every = {one.key for one in judgements}
    for one in judgements:
        if one.right is not None:
            by_key[one.key][one.annotator] = one
    judged = list(by_key.values())
    right = [one for one in judged if _votes(one) > 0]
    traces = judgements[0].traces
    branches = sum(next(iter(one.values())).branches for one in right)
    covered = len({next(iter(one.values())).trace for one in right})
    return {
        "instances": len(every),
        "judged": len(judged),
        "ties": sum(_votes(one) == 0 for one in judged),
        "precision": _share(len(right), len(judged)),
        "labels": _label_agreement(right),
        "agreement": [_pair(judged, *pair) for pair in combinations(_annotators(judged), 2)],
        "traces": traces,
        "branches_per_trace": branches / traces,
        "coverage": _share(covered, traces),
    }


def _votes(judged: dict[str, Judgement]) -> int:
    return sum(1 if one.right else -1 for one in judged.values())


def _annotators(judged: Sequence[dict[str, Judgement]]) -> list[str]:
    return sorted({name for one in judged for name in one})


def _share(hits: int, of: int) -> dict[str, Any]:
    return {
        "hits": hits,
        "of": of,
        "share": hits / of if of else None,
        "interval": wilson(hits, of),
    }


def _label_agreement(right: Sequence[dict[str, Judgement]]) -> dict[str, Any]:
    """The LLM's label against the humans', where these give one and do not differ."""
    pairs = []
    counts = dict.fromkeys(LABELS, 0)
    for one in right:
        said = {judgement.label for judgement in one.values() if judgement.label}
        if len(said) == 1:
            label = said.pop()
            counts[label] += 1
            pairs.append((next(iter(one.values())).llm_label, label))
    same = sum(llm == human for llm, human in pairs)
    return {**_share(same, len(pairs)), "kappa": kappa(pairs), "human": counts}


def _pair(judged: Sequence[dict[str, Judgement]], first: str, second: str) -> dict[str, Any]:
    both = [(one[first], one[second]) for one in judged if first in one and second in one]
    verdicts = [(str(a.right), str(b.right)) for a, b in both]
    return {
        "annotators": [first, second],
        "instances": len(both),
        "same_verdict": sum(a == b for a, b in verdicts),
        "kappa_verdict": kappa(verdicts),
        "kappa_category": kappa([(a.category, b.category) for a, b in both]),
    }


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa; None where it is not defined: no pair, or both always say the same thing."""
    from sklearn.exceptions import UndefinedMetricWarning
    from sklearn.metrics import cohen_kappa_score

    if len({value for pair in pairs for value in pair}) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        found = float(cohen_kappa_score([a for a, _ in pairs], [b for _, b in pairs]))
    return None if math.isnan(found) else found
