"""The model and tokenizer to train, loaded or, for a dry run, laid out; whether they fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.integrations import deepspeed
from trl.trainer.utils import create_model_from_path

from ..dialect import Dialect, DialectError
from .attention import IMPLEMENTATIONS
from .checkpoint import CheckpointError
from .refusals import ConfigError, told
from .tokens import TagError

#: One of these has every tokenizer; without them transformers makes up an empty one.
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "tiktoken.model")


def load_model(
    path: str, args: Any, quantization_config: Any = None, *, weights: bool = True
) -> PreTrainedModel:
    """The model of ``path`` as TRL's trainer would load it.

    Args:
        args: a TRL config: ``model_init_kwargs`` and ``trust_remote_code``.
        weights: False for parameters on the ``meta`` device: every check that loading makes, on
            the files themselves, without the memory.

    Raises:
        CheckpointError: it is not there, is an adapter, does not load, or lacks weights.
        ConfigError: quantization is set twice.
    """
    check_folder(path)
    settings = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    if quantization_config is not None:
        if "quantization_config" in settings:
            raise ConfigError(
                "quantization_config stands in model_init_kwargs beside load_in_4bit or "
                "load_in_8bit; set it in one place"
            )
        settings["quantization_config"] = quantization_config
    if not weights:
        settings["device_map"] = "meta"
    elif args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        settings["device_map"] = None  # each process places the whole model by itself
    remedy = (
        f"attn_implementation is one of {', '.join(IMPLEMENTATIONS)}, and training needs all files"
    )
    with told(f"the model in {path} does not load", remedy, CheckpointError), _unsharded(weights):
        try:
            model, report = create_model_from_path(path, **settings, output_loading_info=True)
        except SafetensorError as error:
            raise CheckpointError(
                f"a file of weights in {path} is damaged or was cut off ({error}); "
                "put it there whole"
            ) from error
        except RuntimeError as error:
            if "mismatched_sizes" not in str(error):
                raise
            raise CheckpointError(
                f"the weights in {path} have other shapes than its config.json says; take both "
                "from one checkpoint"
            ) from error
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise CheckpointError(
            f"the weights in {path} lack {', '.join(lacking[:3])}"
            f"{f' and {len(lacking) - 3} more' if len(lacking) > 3 else ''} of "
            f"{type(model).__name__}, which would be made up; take a whole checkpoint"
        )
    return model


def load_tokenizer(path: str, args: Any) -> Any:
    """The tokenizer of ``path``.

    Raises:
        CheckpointError: there is none.
    """
    check_folder(path)
    settings = {
        "revision": (args.model_init_kwargs or {}).get("revision") or "main",
        "trust_remote_code": args.trust_remote_code,
    }
    remedy = "name a folder or a Hub name; `multiverse prepare-model` writes a checkpoint to train"
    with told(f"there is no model {path} to be read, here or on the Hub", remedy, CheckpointError):
        AutoConfig.from_pretrained(path, **settings)
    remedy = "copy the base model's into the folder, or let `multiverse prepare-model` write both"
    if Path(path).is_dir() and not any(Path(path, name).is_file() for name in _TOKENIZERS):
        raise CheckpointError(f"{path} holds no tokenizer; {remedy}")
    with told(f"the tokenizer in {path} cannot be read", remedy, CheckpointError):
        return AutoTokenizer.from_pretrained(path, **settings)


def check_folder(path: str) -> None:
    """Raise :class:`CheckpointError` for a path that is no folder with a model's files."""
    place = Path(path)
    if place.is_file():
        raise CheckpointError(f"{path} is a file; model_name_or_path is a folder, or a Hub name")
    if (place / "adapter_config.json").is_file():
        raise CheckpointError(f"{path} is an adapter; make it a model: multiverse merge-adapter")
    if place.is_dir() and not (place / "config.json").is_file():
        raise CheckpointError(f"{path} holds no config.json; name the folder of a checkpoint")
    if not place.exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise CheckpointError(
            f"no such folder: {path} (looked in {place.absolute().parent}); "
            "`multiverse prepare-model` writes a checkpoint to train"
        )


def check_fit(model: Any, tokenizer: Any) -> Dialect:
    """The dialect of ``tokenizer``, whose every token has a row in ``model``.

    Raises:
        TagError: it holds no complete dialect, or ids without a row.
    """
    try:
        dialect = Dialect.from_tokenizer(tokenizer)
    except DialectError as error:
        reason = str(error).partition(". ")[0]
        raise TagError(
            f"{reason}; `multiverse prepare-model` adds the tags to a checkpoint"
        ) from error
    rows = embedding_rows(model)
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise TagError(
            f"the tokenizer has ids up to {highest} (tags up to {max(dialect.tag_ids)}), the model "
            f"only {rows} rows; `multiverse prepare-model` gives every token its row"
        )
    return dialect


def embedding_rows(model: Any) -> int:
    """Rows of the embedding, known also where the table itself is sharded."""
    return int(model.get_input_embeddings().num_embeddings)


@contextmanager
def _unsharded(weights: bool) -> Iterator[None]:
    """Under ZeRO-3 models are born sharded; one without weights is not."""
    held = deepspeed._hf_deepspeed_config_weak_ref
    if not weights:
        deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = held
