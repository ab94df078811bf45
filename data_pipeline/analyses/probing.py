"""The probing test: can it be read off the hidden states that a parallel part follows?

One logistic regression per layer, folds that keep a question together, and two controls: the same
with shuffled labels, and with nothing but the place of the token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from sglang_multiverse.dialect import MULTIVERSE

from . import states as hidden
from .intervals import clustered_mean
from .rows import Row
from .sites import Encoded, Matching, Site, encode, match
from .states import States

#: Shuffles of the control.
SHUFFLES = 5


class ProbingError(ValueError):
    """Too little to probe."""


def run(
    rows: Sequence[Row],
    model: Path,
    *,
    layers: str | None,
    folds: int,
    file: Path,
    device: str | None,
    max_tokens: int,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The whole test over ``rows``; the states are read from ``file`` if it has them.

    Raises:
        StatesError: no model, no GPU for a large one, or a file of other states.
        ProbingError: too little to probe.
    """
    from transformers import AutoTokenizer

    wanted = hidden.layers_of(layers, hidden.load_config(model).num_hidden_layers)
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    if not tokenizer.is_fast:
        raise ProbingError(f"{model}: offsets of tokens need a fast tokenizer (tokenizer.json)")
    prompt = MULTIVERSE.sequential_prompt
    texts = [
        encode(number, row.text, row.question, row.messages, tokenizer, max_tokens, prompt)
        for number, row in enumerate(rows)
    ]
    matching = match(site for one in texts for site in one.sites)
    questions = [row.question or row.id for row in rows]
    made = design(matching.sites, questions, folds)
    mark = hidden.fingerprint(model, texts, matching.sites, wanted)
    found = hidden.load(file, mark)
    if found is None:
        on = hidden.device_of(device, model)
        count = len({site.trace for site in matching.sites})
        say(f"reading {len(matching.sites):,} tokens of {count:,} texts on {on}")
        found = hidden.read_states(model, texts, matching.sites, wanted, on)
        hidden.save(file, found, mark)
    else:
        say(f"hidden states from {file}")
    return {
        "model": str(model),
        **about(texts, matching, made),
        **probe(found, made, folds, seed),
    }


@dataclass(frozen=True)
class Design:
    """Sites with what is to be told, and the question each belongs to.

    Attributes:
        labels: True where a parallel part follows, shape ``(n,)``.
        groups: of questions, shape ``(n,)``.
        places: token index and share of the text before it, shape ``(n, 2)``.
    """

    labels: npt.NDArray[np.bool_]
    groups: npt.NDArray[np.int64]
    places: npt.NDArray[np.float64]


def design(sites: Sequence[Site], questions: Sequence[str], folds: int) -> Design:
    """The design over matched sites; ``questions`` are those of the traces.

    Raises:
        ProbingError: fewer questions than folds, or fewer sites than would say anything.
    """
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(questions[site.trace], len(numbers)) for site in sites]
    if len(numbers) < folds or len(sites) < 4 * folds:
        raise ProbingError(
            f"{len(sites) // 2} parallel sites with a counterpart, of {len(numbers)} questions: "
            f"too few for {folds} folds. A corpus is needed whose texts hold blocks, and sentences "
            "that end in the same token with no block after them"
        )
    return Design(
        np.array([site.parallel for site in sites]),
        np.array(groups),
        np.array([[site.index, site.share] for site in sites], dtype=float),
    )


def probe(states: States, made: Design, folds: int, seed: int) -> dict[str, Any]:
    """Accuracy by layer, out of fold, with both controls."""
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(made.labels) for _ in range(SHUFFLES)]
    layers = {}
    for layer, values in states.items():
        features = values.astype(np.float32)
        controls = [
            float(_correct(features, labels, made.groups, folds, seed).mean())
            for labels in shuffled
        ]
        layers[str(layer)] = {
            **_accuracy(features, made, folds, seed),
            "shuffled": {"mean": fmean(controls), "least": min(controls), "most": max(controls)},
        }
    return {
        "layers": layers,
        "place_only": _accuracy(made.places, made, folds, seed),
        "folds": folds,
        "seed": seed,
    }


def _accuracy(features: Any, made: Design, folds: int, seed: int) -> dict[str, Any]:
    correct = _correct(features, made.labels, made.groups, folds, seed)
    return {
        "accuracy": float(correct.mean()),
        "interval": clustered_mean(correct.astype(float), made.groups, seed),
    }


def _correct(
    features: Any, labels: npt.NDArray[np.bool_], groups: Any, folds: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Whether every site's label is told right by a classifier that saw other questions only."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    correct = np.zeros(len(labels), dtype=bool)
    split = GroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in split.split(features, labels, groups):
        if labels[train].all() or not labels[train].any():
            correct[test] = labels[test] == labels[train][0]
            continue
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
        )
        correct[test] = (
            model.fit(features[train], labels[train]).predict(features[test]) == (labels[test])
        )
    return correct


def about(texts: Sequence[Encoded], matching: Matching, made: Design) -> dict[str, Any]:
    """What was probed, and what was left out."""
    return {
        "texts": len(texts),
        "questions": len(set(made.groups.tolist())),
        "sites": len(made.labels),
        "share_parallel": float(made.labels.mean()),
        "matched_in_the_same_text": matching.same_trace,
        "unmatched": matching.unmatched,
        "beyond_max_tokens": sum(one.beyond for one in texts),
    }
