"""A dry run: the trainer itself, over a model without weights, up to its first step."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from typing import Any

from .loading import load_model
from .preflight.attempt import try_attention, try_batch
from .preflight.checks import check_trainer, extremes, prepared
from .preflight.memory import Sharding, launched, memory
from .preflight.report import counts_of, example_of, memory_of, model_of, warnings_of
from .refusals import told
from .trainer import MultiverseSFTConfig, MultiverseSFTTrainer


class Rehearsal(MultiverseSFTTrainer):
    """The trainer with parameters on the ``meta`` device, and nothing sent anywhere."""

    def _load(self, path: str, args: MultiverseSFTConfig, quantization_config: Any) -> Any:
        return load_model(path, args, quantization_config, weights=False)

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """There is nothing to move."""

    def init_hf_repo(self, token: str | None = None) -> None:
        """No repository is made on the Hub."""

    def _send_telemetry(self) -> None:
        """No run to report."""


def rehearse(
    path: str, args: MultiverseSFTConfig, train: Any, *, sharding: Sharding | None, **more: Any
) -> Iterator[str]:
    """Make every check of training, and report line by line.

    Args:
        sharding: what to count memory for; by default how this process was launched.
        more: as :class:`MultiverseSFTTrainer` takes.

    Raises:
        ValueError: what training would raise, word for word.
    """
    with tempfile.TemporaryDirectory() as folder:
        args = copy.copy(args)
        args.output_dir = folder
        trainer = set_up(Rehearsal, path, args, train, **more)
        yield from counts_of(trainer)
        yield from warnings_of(trainer, train)
        check_trainer(trainer)
        try_batch(trainer)
        note = try_attention(trainer)
        if note is not None:
            yield note
        sharding = sharding or launched(trainer)
        longest = max(
            (len(one[extremes(one)[0]]["input_ids"]) for _, one in prepared(trainer)),
            default=args.max_length or 0,
        )
        yield from example_of(trainer)
        yield model_of(trainer, longest)
        yield from memory_of(memory(trainer.model, args, longest, sharding), sharding)
        yield "nothing was trained"


def set_up(
    kind: type[MultiverseSFTTrainer], path: str, args: MultiverseSFTConfig, train: Any, **more: Any
) -> Any:
    """A trainer, or one line that says why there is none."""
    with told("training cannot be set up", "see docs/training.md for the fields"):
        return kind(path, args, train_dataset=train, **more)
