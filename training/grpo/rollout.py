"""``rollout_func`` for TRL's ``GRPOTrainer``: completions from SGLang that fork and join.

    rollout = MultiverseRollout("http://127.0.0.1:30000", tokenizer)
    enable_multiverse_attention(model, dialect=rollout.dialect)
    GRPOTrainer(model, rewards, args, train_dataset, rollout_func=rollout)

Before it samples, a rollout gives the server the policy's weights. What the engine wrote by itself
is masked, so that every token with a loss sees its left neighbour and TRL's shift by one holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import DistributedType, broadcast_object_list
from peft import PeftModel
from transformers import AutoConfig, PreTrainedTokenizerBase

from ...dialect import Dialect
from ...sequencer import UNLIMITED, Limits
from ..attention import recorded_share_every
from .completion import EXTRAS, Completion, read_completion
from .engine import EngineClient, EngineError
from .handover import Handover, attend
from .prompts import encode
from .weights import ShardedError, architecture

if TYPE_CHECKING:
    from trl import GRPOTrainer


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
        weights: how they are handed over: ``auto``, ``memory``, ``distributed`` or ``disk``; see
            :mod:`.handover`.
        weights_dir: where ``disk`` puts them, seen by the server under the same path; a temporary
            folder by default.
        weights_address: of this machine, as the server reaches it, for ``distributed``.
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
        weights: str = "auto",
        weights_dir: str | Path | None = None,
        weights_address: str = "127.0.0.1",
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
        self.handover = Handover(self.client, weights, folder=weights_dir, address=weights_address)
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
        return read_completion(
            prompt_ids, ids, logprobs, meta, self.dialect, self.limits, self._decode
        )

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
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise ShardedError(
                "the policy's weights are DeepSpeed's, which this does not gather for the server; "
                "train with plain data parallelism or FSDP2, or with sync_every=None and an update "
                "of your own"
            )
        version = f"{self.seed}-step-{step}"
        policy = accelerator.unwrap_model(trainer.model)
        failure: list[str | None] = [None]
        if accelerator.is_main_process:
            try:
                if self.synced_step is None:
                    self._check_served(policy)
            except EngineError as error:
                failure = [str(error)]
        _raise_everywhere(failure)
        if accelerator.is_main_process:
            try:
                self.handover.give(policy, version)
            except (EngineError, OSError) as error:
                failure = [str(error)]
        else:
            attend(policy)
        _raise_everywhere(failure)
        self.synced_step, self.version = step, version
        return True

    def close(self) -> None:
        """End what ``distributed`` holds open on the server."""
        self.handover.close()

    def _check_served(self, policy: Any) -> None:
        # Weights that do not fit can leave SGLang half loaded, so this comes before the first.
        base = policy.get_base_model() if isinstance(policy, PeftModel) else policy
        served = self.client.architectures()
        if architecture(policy) not in served:
            raise EngineError(
                f"{self.client.url} serves {', '.join(served) or 'an unnamed model'}, the policy "
                f"is a {architecture(policy)}; serve the checkpoint that training starts from"
            )
        other = _other_sizes(base.config, self.client.model_path())
        if other:
            raise EngineError(
                f"{self.client.url} serves {self.client.model_path()}, whose {other}; serve the "
                "checkpoint that training starts from"
            )
        made, served_with = recorded_share_every(base.config), self.client.share_every()
        if made != served_with:
            raise EngineError(
                f"{self.client.url} serves with share_every={served_with}, the policy was trained "
                f"with {made}: paths would see other tokens; serve the checkpoint that training "
                "starts from, without --multiverse-share-every"
            )

    def _encode(self, prompt: Any, trainer: GRPOTrainer) -> list[int]:
        return encode(
            prompt,
            self.tokenizer,
            chat_template=trainer.chat_template,
            **trainer.chat_template_kwargs,
        )

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

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


def _raise_everywhere(failure: list[str | None]) -> None:
    """Raise the main process's failure in every process: the others would wait for it."""
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise EngineError(failure[0])


def _other_sizes(config: Any, model_path: str) -> str | None:
    """In which size a served checkpoint differs, where its config can be read from here."""
    try:
        served = AutoConfig.from_pretrained(model_path, local_files_only=True)
    except (OSError, ValueError):
        return None
    for size in _SIZES:
        theirs, ours = getattr(served, size, None), getattr(config, size, None)
        if theirs != ours:
            return f"{size} is {theirs}, the policy's {ours}"
    return None


_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
)

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
