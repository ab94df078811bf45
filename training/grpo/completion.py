"""One answer of the engine, and what a trainer and reward functions are told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...dialect import Dialect
from ...layout import layout_of
from ...parallelism import parallelism
from ...sequencer import UNLIMITED, Limits
from ...structure import parse

#: What reward functions get beside TRL's own arguments, one entry per completion.
EXTRAS = (
    "issues",
    "critical_path",
    "parallelism",
    "forks",
    "paths",
    "finish_reason",
    "faithful",
    "path_spans",
    "path_tokens",
    "path_texts",
)


@dataclass(frozen=True)
class Completion:
    """One answer of the engine.

    Attributes:
        ids, logprobs, sampled: per output token: its id, its logprob under the engine at the
            sampling temperature (0.0 where the engine wrote it), and whether the model chose it.
        issues: codes of departures from canonical form, empty where there is none.
        critical_path: generated tokens on the longest chain of visible tokens.
        parallelism: generated tokens ÷ critical path.
        forks, paths: goals that forked and paths they seeded.
        finish_reason: ``stop`` or ``length``.
        faithful: the trainer's reading of the text has the engine's forks and positions.
        path_spans: ``[start, end)`` of every path in ``ids``, from its opening tag to the next
            path or the conclusion, in text order; one nested in another lies within it.
        path_texts: the text of each, without tags.
    """

    ids: list[int]
    logprobs: list[float]
    sampled: list[bool]
    issues: list[str]
    critical_path: int
    parallelism: float
    forks: int
    paths: int
    finish_reason: str
    faithful: bool
    path_spans: list[list[int]] = field(default_factory=list)
    path_texts: list[str] = field(default_factory=list)

    @property
    def path_tokens(self) -> list[int]:
        """Tokens of each path, its tags and nested paths included."""
        return [end - start for start, end in self.path_spans]

    @property
    def env_mask(self) -> list[int]:
        """1 where the token carries loss. Nothing does in a text that the trainer would attend
        to otherwise than the engine did."""
        return [int(chosen and self.faithful) for chosen in self.sampled]


def read_completion(
    prompt: list[int],
    ids: list[int],
    logprobs: list[float],
    meta: Mapping[str, Any],
    dialect: Dialect,
    limits: Limits = UNLIMITED,
    decode: Callable[[list[int]], str] | None = None,
) -> Completion:
    """What the engine reported of one answer, beside what the parser says of the same tokens.

    Args:
        decode: of token ids into text, for ``path_texts``.
    """
    sampled = np.ones(len(ids), dtype=bool)
    for start, end in meta["multiverse_injected"]:
        sampled[start:end] = False
    trace = parse([*prompt, *ids], dialect, limits=limits)
    laid = layout_of(trace)
    measured = parallelism(trace, prompt_tokens=len(prompt), laid=laid)
    faithful = (
        measured.blocks == meta["multiverse_forks"]
        and measured.critical_path_tokens == meta["multiverse_critical_path_tokens"]
        and not (sampled & laid.left_hidden[len(prompt) :]).any()
    )
    spans = sorted(
        [path.start - len(prompt), path.end - len(prompt)]
        for block, _ in trace.walk()
        for path in block.paths
        if path.start >= len(prompt)
    )
    return Completion(
        ids=ids,
        logprobs=logprobs,
        sampled=sampled.tolist(),
        issues=[issue.code for issue in trace.issues if issue.offset >= len(prompt)],
        critical_path=meta["multiverse_critical_path_tokens"],
        parallelism=meta["multiverse_parallelism"],
        forks=meta["multiverse_forks"],
        paths=meta["multiverse_paths"],
        finish_reason=meta["finish_reason"]["type"],
        faithful=bool(faithful),
        path_spans=spans,
        path_texts=[
            decode([token for token in ids[start:end] if token not in dialect.tag_of])
            for start, end in spans
            if decode is not None
        ],
    )
