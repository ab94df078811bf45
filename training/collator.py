"""Batches with layout: positions, order, and labels where the model itself must choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ..dialect import Dialect
from ..layout import Layout, check_share_every, layout_of, pack, plain
from ..structure import Tokens, Trace, parse
from .screen import IGNORED

#: How a text is laid out for training. Only ``multiverse`` is what the engine serves; the others
#: are its baseline and its ablations.
Variant = Literal["multiverse", "autoregressive", "no-mask", "no-positions"]


def check_sharing(share_every: int | None, variant: str) -> None:
    """Raise ``ValueError`` for a ``share_every`` that is none, or beside another variant."""
    check_share_every(share_every)
    if share_every is not None and variant != "multiverse":
        raise ValueError(
            f"share_every={share_every} changes what paths see, and variant={variant!r} is an "
            "ablation of its own; use one of them"
        )


def injected(trace: Trace, tokens: Tokens, dialect: Dialect) -> npt.NDArray[np.bool_]:
    """Which tokens an engine writes by itself, shape ``(n,)``.

    These are the separator after a forking ``</Goal>``, each path's opening with its label, the
    separator after ``</Path>``, and the opening of the conclusion.
    """
    made = np.zeros(trace.length, dtype=bool)
    ids = [int(i) for i in tokens]
    for block, _ in trace.walk():
        made[block.goal[1] : block.region_start] = True
        for path in block.paths:
            opening = dialect.label(ids[path.start + 1 : path.end])
            seed = dialect.path_seed(opening or ())
            made[path.start : min(path.start + len(seed), path.end)] = True
            if path.close is not None:
                made[path.close : path.end] = True
        if block.conclusion is not None:
            start = block.conclusion[0]
            made[start : start + len(dialect.conclusion_seed)] = True
    return made


@dataclass
class MultiverseCollator(DataCollatorForLanguageModeling):
    """Pad a batch and lay it out.

    Takes ``input_ids`` of whole texts, prompt included, with ``labels`` and, for packed rows,
    ``seq_lengths``. Returns tensors of shape ``(batch, length)``: ``input_ids``, ``labels``,
    ``attention_mask``, ``position_ids`` (int64) and ``multiverse_order`` (int32), with
    ``share_every`` also ``multiverse_rank`` (int32). Packed texts and padding see nothing of one
    another.

    Attributes:
        dialect: of the tokenizer that made the ids.
        loss_on_injected: train on tokens the engine writes by itself, too. A token that does not
            see its left neighbour is never trained on: nothing there could predict it.
        variant: ``multiverse``; or, for comparison, causal attention (``autoregressive``,
            ``no-mask``) or the mask over positions in text order (``no-positions``). Under causal
            attention nothing forks, so that every token of an answer is the model's to write.
        share_every: tokens a path writes before it sees what its siblings have written; None:
            paths see nothing of one another. Of the ``multiverse`` variant alone.
    """

    dialect: Dialect = field(kw_only=True)
    loss_on_injected: bool = False
    variant: Variant = "multiverse"
    share_every: int | None = None

    def __post_init__(self) -> None:
        check_sharing(self.share_every, self.variant)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        parsed = [
            [(ids, parse(ids, self.dialect)) for ids in _texts(example)] for example in examples
        ]
        batch = super().torch_call(
            [self._labelled(one, texts) for one, texts in zip(examples, parsed, strict=True)]
        )
        length = batch["input_ids"].shape[1]
        rows: list[Layout] = []
        for row, texts in enumerate(parsed):
            laid = [self._laid_out(trace) for _, trace in texts]
            whole = pack([*laid, plain(length - sum(map(len, laid)))])
            rows.append(whole)
            batch["labels"][row][torch.from_numpy(whole.left_hidden)] = IGNORED
        batch["position_ids"] = torch.from_numpy(np.stack([row.position for row in rows]))
        order = np.stack([row.order for row in rows])
        batch["multiverse_order"] = torch.from_numpy(order).to(torch.int32)
        if self.share_every is not None:
            rank = np.stack([row.ranks for row in rows])
            batch["multiverse_rank"] = torch.from_numpy(rank).to(torch.int32)
        return batch

    def _laid_out(self, trace: Trace) -> Layout:
        causal = plain(trace.length)
        if self.variant in ("autoregressive", "no-mask"):
            return causal
        laid = layout_of(trace, share_every=self.share_every)
        if self.variant == "multiverse":
            return laid
        return Layout(position=causal.position, order=laid.order)

    def _labelled(
        self, example: dict[str, Any], texts: list[tuple[npt.NDArray[np.int64], Trace]]
    ) -> dict[str, Any]:
        labels = np.array(example.get("labels", example["input_ids"]))
        if not self.loss_on_injected and self.variant in ("multiverse", "no-positions"):
            made = [injected(trace, ids, self.dialect) for ids, trace in texts]
            labels[np.concatenate(made)] = IGNORED
        return {"input_ids": example["input_ids"], "labels": labels.tolist()}


def _texts(example: dict[str, Any]) -> list[npt.NDArray[np.int64]]:
    """The texts of one row, which is several where it was packed."""
    ids = np.asarray(example["input_ids"], dtype=np.int64)
    lengths = example.get("seq_lengths") or [len(ids)]
    return np.split(ids, np.cumsum(lengths)[:-1])
