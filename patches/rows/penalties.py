"""Penalties and ``min_new_tokens`` count over the answer, not over a row.

A row that joins a batch in the middle of an answer (a path, a trunk after its join, anything after
a replay) starts SGLang's penalizers with the tokens of the answer that it sees; SGLang starts every
row at nothing. Touches the tensors of ``sampling/penaltylib``. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from array import array
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import ScheduleBatch
from sglang.srt.sampling import penaltylib

from .branch import Branch


def answer_seen(branch: Branch) -> array[int]:
    """Ids of the generated tokens that the node's next one sees, in row order."""
    return (branch.above() + branch.node.tokens)[branch.tree.prompt_len :]


def _frequency(penalizer: Any, row: int, ids: torch.Tensor, counts: torch.Tensor) -> None:
    table = penalizer.cumulated_frequency_penalties
    table[row, ids] = counts.to(table.dtype) * penalizer.frequency_penalties[row]


def _presence(penalizer: Any, row: int, ids: torch.Tensor, counts: torch.Tensor) -> None:
    penalizer.cumulated_presence_penalties[row, ids] = penalizer.presence_penalties[row]


def _repetition(penalizer: Any, row: int, ids: torch.Tensor, counts: torch.Tensor) -> None:
    penalizer.cumulated_repetition_penalties[row, ids] = penalizer.repetition_penalties[row]


def _length(penalizer: Any, row: int, ids: torch.Tensor, counts: torch.Tensor) -> None:
    penalizer.len_output_tokens[row] = counts.sum()


_RESTORE = {
    penaltylib.BatchedFrequencyPenalizer: _frequency,
    penaltylib.BatchedPresencePenalizer: _presence,
    penaltylib.BatchedRepetitionPenalizer: _repetition,
    penaltylib.BatchedMinNewTokensPenalizer: _length,
}


def restore(batch: ScheduleBatch, overlap: bool) -> None:
    """Let the rows of an extend batch begin with what their answers hold already.

    Args:
        overlap: stock code then counts the newest token itself, with the next decode step.
    """
    orchestrator = batch.sampling_info.penalizer_orchestrator
    if not orchestrator.is_required:
        return
    for row, req in enumerate(batch.reqs):
        branch = req.__dict__.get("multiverse")
        if not isinstance(branch, Branch):
            continue
        seen = answer_seen(branch)
        if overlap:
            seen = seen[:-1]
        if not seen:
            continue
        ids, counts = torch.unique(
            torch.tensor(seen, dtype=torch.int64, device=batch.device), return_counts=True
        )
        for kind, penalizer in orchestrator.penalizers.items():
            if penalizer.is_prepared():
                _RESTORE[kind](penalizer, row, ids, counts)
