"""Whether a model in training writes structure an engine can serve: some answers at each eval."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from accelerate.logging import get_logger
from transformers import TrainerCallback

from ..dialect import Dialect
from ..parallelism import parallelism
from ..structure import Trace, parse
from .decode import fork_join_decode
from .screen import IGNORED

logger = get_logger(__name__)


class StructureValidity(TrainerCallback):
    """Generates greedy answers to the first prompts of the eval dataset, forking and joining as an
    engine does, and logs how they are built.

    Logs ``eval_structure_finished`` (share that ended by themselves); of those that did,
    ``eval_structure_valid`` (share in canonical form: an answer that was cut off is in none); of
    those whose prompt asks for parallel steps or whose reference holds a block,
    ``eval_structure_forked``; and ``eval_parallelism``, of all. A share of none is left out. Every
    process of a sharded model generates the same answers.
    """

    def __init__(self, trainer: Any, dialect: Dialect):
        self.trainer = trainer
        self.dialect = dialect
        self._last = -1

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._last == state.global_step:
            return  # several eval datasets: their first prompts have been answered
        self._last = state.global_step
        asked = self._asked(args.eval_generations)
        if not asked:
            logger.warning(
                "eval_generations: no text of the eval dataset begins with a prompt that carries "
                "no loss, so there is nothing to answer; use 'prompt' and 'completion' columns"
            )
            return
        prompts, should_fork = zip(*asked, strict=True)
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
        self.trainer.log(
            structure_metrics(
                traces,
                prompts=[len(prompt) for prompt in prompts],
                finished=[answer[-1:] == [eos] for answer, _ in answers],
                should_fork=should_fork,
            )
        )
        model.train(training)

    def _asked(self, count: int) -> list[tuple[list[int], bool]]:
        """Of the first texts, what stands before the first token that carries loss, and whether
        the answer should fork."""
        found: list[tuple[list[int], bool]] = []
        given = self.trainer.eval_dataset or ()
        parallel = self.dialect.spec.parallel_prompt
        for row in chain.from_iterable(given.values()) if isinstance(given, dict) else given:
            at = 0
            for length in row.get("seq_lengths") or [len(row["input_ids"])]:
                ids = list(row["input_ids"][at : at + length])
                labels = torch.tensor(row["labels"][at : at + length])
                answer = int((labels != IGNORED).int().argmax())
                if answer:
                    asked = self.trainer._tokenizer.decode(ids[:answer])
                    held = any(b.start >= answer for b in parse(ids, self.dialect).blocks)
                    found.append((ids[:answer], held or parallel in asked))
                if len(found) == count:
                    return found
                at += length
        return found


def structure_metrics(
    traces: Sequence[Trace],
    *,
    prompts: Sequence[int],
    finished: Sequence[bool],
    should_fork: Sequence[bool],
) -> dict[str, float]:
    """The metrics of :class:`StructureValidity`.

    Args:
        traces: of prompt and answer.
        prompts: tokens of each prompt.
        finished: which answers ended by themselves.
        should_fork: which were asked to fork, or hold a block in their reference.
    """
    measured = [
        parallelism(trace, prompt_tokens=tokens)
        for trace, tokens in zip(traces, prompts, strict=True)
    ]
    whole = [trace for trace, ended in zip(traces, finished, strict=True) if ended]
    forking = [one for one, should in zip(measured, should_fork, strict=True) if should]
    metrics = {
        "eval_structure_finished": len(whole) / len(traces),
        "eval_parallelism": sum(one.tokens for one in measured)
        / max(sum(one.critical_path_tokens for one in measured), 1),
    }
    if whole:
        metrics["eval_structure_valid"] = sum(t.well_formed for t in whole) / len(whole)
    if forking:
        metrics["eval_structure_forked"] = sum(one.blocks > 0 for one in forking) / len(forking)
    return metrics
