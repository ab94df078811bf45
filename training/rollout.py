"""``rollout_func`` for TRL's ``GRPOTrainer``: completions from SGLang that fork and join.

    rollout = MultiverseRollout("http://127.0.0.1:30000", tokenizer)
    enable_multiverse_attention(model, dialect=rollout.dialect)
    GRPOTrainer(model, rewards, args, train_dataset, rollout_func=rollout)

Before it samples, a rollout gives the server the policy's weights. What the engine wrote by itself
is masked, so that every token with a loss sees its left neighbour and TRL's shift by one holds.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils import DistributedType
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from ..dialect import Dialect
from ..layout import layout_of
from ..parallelism import parallelism
from ..sequencer import UNLIMITED, Limits
from ..structure import parse
from .attention import recorded_share_every
from .grpo_engine import EngineClient, EngineError
from .grpo_weights import save_policy

if TYPE_CHECKING:
    from trl import GRPOTrainer

#: What reward functions get beside TRL's own arguments, one entry per completion.
EXTRAS = (
    "issues",
    "critical_path",
    "parallelism",
    "forks",
    "paths",
    "finish_reason",
    "faithful",
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
) -> Completion:
    """What the engine reported of one answer, beside what the parser says of the same tokens."""
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
    )


class MultiverseRollout:
    """Samples completions from a running server with the plugin.

    TRL passes every prompt ``num_generations`` times over; one completion is returned for each.
    Temperature, top-p, top-k, min-p and the length limit are the trainer's, so that its logprobs
    and the engine's are of one distribution.

    Args:
        server: address of the server, or a client of it.
        tokenizer: the policy's.
        dialect: found from the tokenizer where it is not given.
        sampling: further SGLang sampling parameters, such as ``custom_params``.
        limits: the server's ``--multiverse-max-branches`` and ``--multiverse-max-depth`` where
            answers may go over them, so that goals it declined are text to the trainer too.
        sync_every: optimizer steps between weight updates of the server; None leaves its weights
            alone.
        weights_dir: where weights are handed over, seen by the server under the same path; a
            temporary folder by default.
        concurrency: requests under way at a time.
        seed: each completion's ``sampling_seed`` derives from it. SGLang heeds these with
            ``--enable-deterministic-inference``, which it offers on flashinfer, fa3 and triton.
    """

    def __init__(
        self,
        server: str | EngineClient,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dialect: Dialect | None = None,
        sampling: Mapping[str, Any] | None = None,
        limits: Limits = UNLIMITED,
        sync_every: int | None = 1,
        weights_dir: str | Path | None = None,
        concurrency: int = 64,
        timeout: float = 600.0,
        seed: int = 0,
    ):
        own = sorted(set(sampling or ()) & _TRAINERS)
        if own:
            raise ValueError(f"set {', '.join(own)} in GRPOConfig: the trainer must know them too")
        if sync_every is not None and sync_every < 1:
            raise ValueError(f"sync_every must be 1 or more steps, or None, got {sync_every}")
        self.client = (
            EngineClient(server, timeout=timeout, connections=concurrency)
            if isinstance(server, str)
            else server
        )
        self.tokenizer = tokenizer
        self.dialect = dialect or Dialect.from_tokenizer(tokenizer)
        self.sampling = dict(sampling or {})
        self.limits = limits
        self.sync_every = sync_every
        self.weights_dir = weights_dir
        self.concurrency = concurrency
        self.seed = seed
        self.synced_step: int | None = None
        self.version: str | None = None
        self._turn = ("", 0)

    def __call__(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        """One completion for each of ``prompts``, in order.

        Returns:
            ``prompt_ids``, ``completion_ids``, ``logprobs`` and ``env_mask``, lists of lists with
            one entry per token, and :data:`EXTRAS` for the reward functions.

        Raises:
            EngineError: the server failed or is not one to train with.
        """
        self.sync(trainer)
        prompt_ids = [self._encode(prompt, trainer) for prompt in prompts]
        params = self._sampling(trainer)
        seeds = self._seeds(len(prompts), trainer)
        with ThreadPoolExecutor(self.concurrency) as pool:
            done = list(
                pool.map(
                    lambda ids, seed: self.complete(ids, {**params, "sampling_seed": seed}),
                    prompt_ids,
                    seeds,
                )
            )
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": [one.ids for one in done],
            "logprobs": [one.logprobs for one in done],
            "env_mask": [one.env_mask for one in done],
            **{name: [getattr(one, name) for one in done] for name in EXTRAS},
        }

    def complete(self, prompt_ids: list[int], params: dict[str, Any]) -> Completion:
        """One answer to ``prompt_ids`` under SGLang's sampling parameters ``params``."""
        ids, logprobs, meta = self.client.generate(prompt_ids, params)
        if self.version is not None and meta["weight_version"] != self.version:
            raise EngineError(
                f"{self.client.url} answered with weights {meta['weight_version']!r}, the policy "
                f"gave it {self.version!r}: another process updates it; give each run its own"
            )
        return read_completion(prompt_ids, ids, logprobs, meta, self.dialect, self.limits)

    def sync(self, trainer: GRPOTrainer, *, force: bool = False) -> bool:
        """Give the server the policy's weights where an update is due; whether one was.

        Raises:
            EngineError: the server refused them.
            ValueError: the weights are spread over processes.
        """
        if self.sync_every is None and not force:
            return False
        step = trainer.state.global_step
        due = self.synced_step is None or abs(step - self.synced_step) >= (self.sync_every or 1)
        if not (due or force):
            return False
        accelerator = trainer.accelerator
        if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise ValueError(
                f"the policy's weights are spread over processes ({accelerator.distributed_type}) "
                "and cannot be handed to the server; train with plain data parallelism, or with "
                "sync_every=None and an update of your own"
            )
        version = f"{self.seed}-step-{step}"
        if accelerator.is_main_process:
            policy = accelerator.unwrap_model(trainer.model)
            if self.synced_step is None:
                self._check_served(policy)
            with tempfile.TemporaryDirectory(
                prefix="multiverse-policy-", dir=self.weights_dir
            ) as folder:
                save_policy(policy, Path(folder))
                self.client.update_weights(Path(folder), version)
        accelerator.wait_for_everyone()
        self.synced_step, self.version = step, version
        return True

    def _check_served(self, policy: Any) -> None:
        # Weights that do not fit can leave SGLang half loaded, so this comes before the first.
        base = policy.get_base_model() if isinstance(policy, PeftModel) else policy
        served = self.client.architectures()
        if type(base).__name__ not in served:
            raise EngineError(
                f"{self.client.url} serves {', '.join(served) or 'an unnamed model'}, the policy "
                f"is a {type(base).__name__}; serve the checkpoint that training starts from"
            )
        made, served_with = recorded_share_every(base.config), self.client.share_every()
        if made != served_with:
            raise EngineError(
                f"{self.client.url} serves with share_every={served_with}, the policy was trained "
                f"with {made}: paths would see other tokens; serve the checkpoint that training "
                "starts from, without --multiverse-share-every"
            )

    def _encode(self, prompt: Any, trainer: GRPOTrainer) -> list[int]:
        if isinstance(prompt, str):
            ids = self.tokenizer(text=prompt)["input_ids"]
        else:
            ids = self.tokenizer.apply_chat_template(
                prompt,
                chat_template=trainer.chat_template,
                add_generation_prompt=True,
                return_dict=False,
                **trainer.chat_template_kwargs,
            )
        return [int(token) for token in ids]

    def _sampling(self, trainer: GRPOTrainer) -> dict[str, Any]:
        if trainer.repetition_penalty != 1.0:
            raise ValueError(
                f"repetition_penalty={trainer.repetition_penalty} changes the engine's logprobs, "
                "per path, and not the trainer's; set it to 1.0"
            )
        return {
            **self.sampling,
            "temperature": trainer.temperature,
            "top_p": trainer.top_p,
            "top_k": trainer.top_k or -1,
            "min_p": trainer.min_p or 0.0,
            "max_new_tokens": trainer.max_completion_length,
        }

    def _seeds(self, count: int, trainer: GRPOTrainer) -> list[int]:
        mode = "train" if trainer.model.training else "eval"
        turn = f"{mode}/{trainer.state.global_step}"
        nth = self._turn[1] + 1 if self._turn[0] == turn else 0
        self._turn = (turn, nth)
        process = trainer.accelerator.process_index
        keys = (f"{self.seed}/{process}/{turn}/{nth}/{i}" for i in range(count))
        return [
            int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1 for key in keys
        ]


_TRAINERS = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_new_tokens",
    "repetition_penalty",
    "sampling_seed",
    "n",
}
