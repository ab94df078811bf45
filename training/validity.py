"""Whether a model in training writes structure an engine can serve: some answers at each eval."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from accelerate.logging import get_logger
from transformers import TrainerCallback

from ..dialect import Dialect
from ..parallelism import parallelism
from ..structure import parse
from .decode import fork_join_decode
from .screen import IGNORED

logger = get_logger(__name__)


class StructureValidity(TrainerCallback):
    """Generates greedy answers to the first prompts of the eval dataset, forking and joining as an
    engine does, and logs how they are built.

    Logs ``eval_structure_valid`` (share in canonical form), ``eval_structure_finished`` (share
    that ended by themselves), ``eval_structure_forked`` and ``eval_parallelism``. Every process of
    a sharded model generates the same answers.
    """

    def __init__(self, trainer: Any, dialect: Dialect):
        self.trainer = trainer
        self.dialect = dialect
        self._last = -1

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._last == state.global_step:
            return  # several eval datasets: their first prompts have been answered
        self._last = state.global_step
        prompts = self._prompts(args.eval_generations)
        if not prompts:
            logger.warning(
                "eval_generations: no text of the eval dataset begins with a prompt that carries "
                "no loss, so there is nothing to answer; use 'prompt' and 'completion' columns"
            )
            return
        model = self.trainer.model
        training = model.training
        eos = self.trainer._tokenizer.eos_token_id
        answers = fork_join_decode(
            model,
            prompts,
            self.dialect,
            eos=eos,
            max_steps=args.eval_max_new_tokens,
            share_every=args.share_every,
        )
        traces = [
            parse([*prompt, *answer], self.dialect)
            for prompt, (answer, _) in zip(prompts, answers, strict=True)
        ]
        measured = [
            parallelism(trace, prompt_tokens=len(prompt))
            for trace, prompt in zip(traces, prompts, strict=True)
        ]
        count = len(prompts)
        self.trainer.log(
            {
                "eval_structure_valid": sum(trace.well_formed for trace in traces) / count,
                "eval_structure_finished": sum(a[-1:] == [eos] for a, _ in answers) / count,
                "eval_structure_forked": sum(m.blocks > 0 for m in measured) / count,
                "eval_parallelism": sum(m.tokens for m in measured)
                / max(sum(m.critical_path_tokens for m in measured), 1),
            }
        )
        model.train(training)

    def _prompts(self, count: int) -> list[list[int]]:
        """What stands before the first token that carries loss, of the first texts."""
        prompts: list[list[int]] = []
        given = self.trainer.eval_dataset or ()
        for row in chain.from_iterable(given.values()) if isinstance(given, dict) else given:
            at = 0
            for length in row.get("seq_lengths") or [len(row["input_ids"])]:
                labels = torch.tensor(row["labels"][at : at + length])
                answer = int((labels != IGNORED).int().argmax())
                if answer:
                    prompts.append(list(row["input_ids"][at : at + answer]))
                if len(prompts) == count:
                    return prompts
                at += length
        return prompts
