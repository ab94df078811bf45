"""TRL's ``GRPOTrainer`` on answers that fork, with a server's logprobs for what they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, get_args

import torch
from trl import GRPOConfig, GRPOTrainer

from ..attention import enable_multiverse_attention, recorded_share_every
from .advantages import StructuralFilter, deviations, path_advantages, spread_of, token_mask
from .completion import EXTRAS
from .engine import EngineError
from .rewards.checked import FROM_TRL, Reward
from .rollout import MultiverseRollout

_GAP = "sampling/sampling_logp_difference/mean"


class _Engine:
    """What TRL asks of a generation backend that is not the model itself."""

    def __init__(self, rollout: MultiverseRollout, trainer: GRPOTrainer):
        self.rollout = rollout
        self.trainer = trainer

    def sync_weights(self) -> None:
        self.rollout.sync(self.trainer)


def check_columns(rewards: Iterable[Any], dataset: Any) -> None:
    """Whether every reward function finds what it takes in ``dataset`` or from the trainer.

    Raises:
        RewardError: one needs a column that is not there.
    """
    columns = set(dataset.column_names or ()) - {"prompt", "completion"}
    for one in rewards:
        if isinstance(one, Reward):
            one.check({*columns, *EXTRAS, *FROM_TRL})


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
        structural_filter: what becomes of answers that are not in canonical form: ``none``,
            ``advantage`` or ``loss``; see :data:`~.advantages.StructuralFilter`.
        tag_gradient: whether tags that the model chose carry loss.
        path_advantages: reward functions may return a list for a completion, one value per path:
            its mean is the completion's reward, and tokens of a path get the path's advantage.

    Raises:
        RewardError: a reward function needs a column that is not there.
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
        structural_filter: StructuralFilter = "none",
        tag_gradient: bool = True,
        path_advantages: bool = False,
        **kwargs: Any,
    ) -> None:
        if args.use_vllm:
            raise ValueError("use_vllm: completions come from SGLang; leave it False")
        if structural_filter not in get_args(StructuralFilter):
            raise ValueError(
                f"structural_filter={structural_filter!r}: one of "
                f"{', '.join(get_args(StructuralFilter))}"
            )
        if path_advantages and args.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                "path_advantages needs multi_objective_aggregation: sum_then_normalize"
            )
        clash = set(EXTRAS) & set(train_dataset.column_names or ())
        if clash:
            raise ValueError(
                f"the dataset's {', '.join(sorted(clash))} would be overwritten by what the engine "
                "reports; rename the column"
            )
        reward_funcs = [
            one if not callable(one) or isinstance(one, Reward | torch.nn.Module)
            else Reward(one, per_path=path_advantages)
            for one in (reward_funcs if isinstance(reward_funcs, list) else [reward_funcs])
        ]  # fmt: skip
        check_columns(reward_funcs, train_dataset)
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
        self.structural_filter = structural_filter
        self.path_advantages = path_advantages
        self._silent = frozenset() if tag_gradient else frozenset(rollout_func.dialect.tag_of)
        self._scored: tuple[torch.Tensor, torch.Tensor, list[list[float]], list[Any]] | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        scored = super()._generate_and_score_completions(inputs)
        gaps = self._metrics["train" if self.model.training else "eval"][_GAP]
        if gaps and self.rollout_func.synced_step == self.state.global_step:
            self._check_gap(gaps[-1])
        if self.path_advantages:
            scored["advantages"] = self._per_token(scored["completion_ids"].size(1))
        return scored

    def _per_token(self, length: int) -> torch.Tensor:
        assert self._scored is not None
        rewards, spread, paths, spans = self._scored
        first = self.accelerator.process_index * len(paths)
        return path_advantages(
            rewards,
            spread,
            slice(first, first + len(paths)),
            paths,
            spans,
            length,
            generations=(
                self.num_generations if self.model.training else self.num_generations_eval
            ),
            scale=self.scale_rewards,
        )

    def _calculate_rewards(self, inputs: list[dict[str, Any]], *given: Any) -> torch.Tensor:
        rewards = super()._calculate_rewards(inputs, *given)
        if self.structural_filter != "none":
            out = torch.tensor([bool(row["issues"]) for row in inputs], device=rewards.device)
            # To TRL an answer that no function scored: its group is compared without it.
            rewards[self.accelerator.gather(out)] = torch.nan
        if self.path_advantages:
            spans = [row["path_spans"] for row in inputs]
            values = [
                one.path_values if isinstance(one, Reward) else [None] * len(inputs)
                for one in self.reward_funcs
            ]
            paths = deviations(values, self.reward_weights.tolist(), [len(one) for one in spans])
            local = torch.tensor([spread_of(row) for row in paths], device=rewards.device)
            weighed = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
            weighed[rewards.isnan().all(dim=1)] = torch.nan
            self._scored = (weighed, self.accelerator.gather(local), paths, spans)
        return rewards

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
        prompt_ids, completion_ids, mask, *more = generated
        extra = more[2]
        filtered = [self.structural_filter != "none" and bool(found) for found in extra["issues"]]
        left_out = [out and self.structural_filter == "loss" for out in filtered]
        mask = token_mask(mask, completion_ids, left_out=left_out, tags=self._silent)
        mode = "train" if self.model.training else "eval"
        for name, values in {
            "critical_path": extra["critical_path"],
            "parallelism": extra["parallelism"],
            "forks": extra["forks"],
            "forked": [count > 0 for count in extra["forks"]],
            "canonical": [not found for found in extra["issues"]],
            "filtered": filtered,
            "unfaithful": [not faithful for faithful in extra["faithful"]],
            "tokens": [len(ids) for ids in completion_ids],
        }.items():
            local = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
            mean = self.accelerator.gather(local).mean().item()
            self._metrics[mode][f"multiverse/{name}"].append(mean)
        return prompt_ids, completion_ids, mask, *more
