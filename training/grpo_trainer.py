"""TRL's ``GRPOTrainer`` on answers that fork, with a server's logprobs for what they are."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from trl import GRPOConfig, GRPOTrainer

from .attention import enable_multiverse_attention, recorded_share_every
from .grpo_engine import EngineError
from .rollout import EXTRAS, MultiverseRollout

_GAP = "sampling/sampling_logp_difference/mean"


class _Engine:
    """What TRL asks of a generation backend that is not the model itself."""

    def __init__(self, rollout: MultiverseRollout, trainer: GRPOTrainer):
        self.rollout = rollout
        self.trainer = trainer

    def sync_weights(self) -> None:
        self.rollout.sync(self.trainer)


class MultiverseGRPOTrainer(GRPOTrainer):
    """:class:`trl.GRPOTrainer` whose rollouts come from SGLang. Arguments are its own.

    Policy and reference model attend by the layout of what the engine wrote. TRL's correction for
    an engine that samples from slightly other probabilities, or from weights some steps old, is on:
    ``vllm_importance_sampling_correction`` and its options in the config govern it, and
    ``sampling/sampling_logp_difference/…`` reports the gap. ``multiverse/…`` reports structure.

    Args:
        rollout_func: also takes the place of TRL's own generation in evaluation.
        tolerated_gap: greatest mean |Δ logprob|, in nats, between policy and engine right after a
            weight update. Rounding in bfloat16 makes some 0.01; another model, whole nats, which
            the correction would turn into steps that teach nothing.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "grpo", "multiverse"]

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: GRPOConfig,
        train_dataset: Any,
        *,
        rollout_func: MultiverseRollout,
        tolerated_gap: float = 0.5,
        **kwargs: Any,
    ) -> None:
        if args.use_vllm:
            raise ValueError("use_vllm: completions come from SGLang; leave it False")
        clash = set(EXTRAS) & set(train_dataset.column_names or ())
        if clash:
            raise ValueError(
                f"the dataset's {', '.join(sorted(clash))} would be overwritten by what the engine "
                "reports; rename the column"
            )
        super().__init__(
            model, reward_funcs, args, train_dataset, rollout_func=rollout_func, **kwargs
        )
        for one in (self.model, self.ref_model):
            if one is not None:
                policy = self.accelerator.unwrap_model(one)
                enable_multiverse_attention(
                    policy,
                    dialect=rollout_func.dialect,
                    limits=rollout_func.limits,
                    share_every=recorded_share_every(policy.config),
                )
        # From here on TRL reads this as "an engine other than the model samples": it asks for new
        # weights before each rollout and corrects for the engine's logprobs.
        self.use_vllm = True
        self.vllm_generation = _Engine(rollout_func, self)
        self._last_loaded_step = -1
        self.tolerated_gap = tolerated_gap

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        scored = super()._generate_and_score_completions(inputs)
        gaps = self._metrics["train" if self.model.training else "eval"][_GAP]
        if gaps and self.rollout_func.synced_step == self.state.global_step:
            self._check_gap(gaps[-1])
        return scored

    def _check_gap(self, gap: float) -> None:
        if gap > self.tolerated_gap:
            raise EngineError(
                f"right after a weight update the logprobs of {self.rollout_func.client.url} are "
                f"{gap:.2f} nats off the policy's on average, over {self.tolerated_gap}: the "
                "server quantizes, rescales its logprobs (SGLANG_RETURN_ORIGINAL_LOGPROB), has "
                "another tokenizer or dtype; serve the policy's own checkpoint, plainly"
            )

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)
        _, completion_ids, _, _, _, extra, _, _ = generated
        mode = "train" if self.model.training else "eval"
        for name, values in {
            "critical_path": extra["critical_path"],
            "parallelism": extra["parallelism"],
            "forks": extra["forks"],
            "forked": [count > 0 for count in extra["forks"]],
            "canonical": [not found for found in extra["issues"]],
            "unfaithful": [not faithful for faithful in extra["faithful"]],
            "tokens": [len(ids) for ids in completion_ids],
        }.items():
            local = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
            mean = self.accelerator.gather(local).mean().item()
            self._metrics[mode][f"multiverse/{name}"].append(mean)
        return generated
