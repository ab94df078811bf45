"""LoRA that trains the rows of the tags beside it, and its merger into a plain checkpoint."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import TrainableTokensWrapper
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ..dialect import Dialect
from .checkpoint import SHARD_SIZE, CheckpointError, check_place, load, load_tokenizer, new_folder
from .tokens import tied

#: Where :func:`save_record` writes.
RECORD = "multiverse.json"


class LoraError(ValueError):
    """A LoRA configuration that would not train the tags; the message names the remedy."""


@dataclass(frozen=True)
class Merged:
    """What :func:`merge_adapter` did. ``layout`` is the recorded one, None if there is none."""

    adapter: str
    base: str
    out: str
    dtype: str
    layout: int | str | None


def with_tag_rows(
    peft_config: LoraConfig, model: PreTrainedModel | str, tokenizer: PreTrainedTokenizerBase
) -> LoraConfig:
    """``peft_config`` with the tags' rows trained, in the embedding and in the output table.

    LoRA alone leaves the rows as they were initialised, and the model never learns to write a tag.
    Only the rows of the tags train, 24 of them or 12 where the tables are one. A table that
    ``modules_to_save`` trains as a whole is left to it. Idempotent; the argument is not changed.

    Args:
        model: as loaded, or the name of what will be.

    Raises:
        LoraError: another adapter than LoRA; LoRA on a table itself; a table without rows for the
            tags; a shared table of which only one end, or each end apart, would train; an output
            table with a bias.
        DialectError: the tokenizer has no tags.
    """
    if not isinstance(peft_config, LoraConfig):
        raise LoraError(
            f"{type(peft_config).__name__} cannot train the rows of the tags; use peft.LoraConfig"
        )
    ids = list(Dialect.from_tokenizer(tokenizer).tag_ids)
    if isinstance(model, str):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    config = copy.deepcopy(peft_config)
    head = model.get_output_embeddings()
    inner, outer = _name(model, model.get_input_embeddings()), _name(model, head)
    for name in (inner, outer):
        if config.target_modules and check_target_module_exists(config, name):
            raise LoraError(
                f"target_modules puts LoRA on {name}, whose rows of tags must train by themselves; "
                "take it out"
            )
    # The sizes of the modules, not of their weights: ZeRO-3 leaves nothing of a sharded one.
    if max(ids) >= min(model.get_input_embeddings().num_embeddings, head.out_features):
        raise LoraError(
            f"the tokenizer has tags up to id {max(ids)}, the model only {head.out_features} rows; "
            "give it theirs with `multiverse prepare-model`"
        )
    tables = [inner] if tied(model) else [inner, outer]
    whole = [n for n in (inner, outer) if n.endswith(tuple(config.modules_to_save or ()))]
    if tied(model) and whole:
        if config.ensure_weight_tying:
            return config
        raise LoraError(
            f"{inner} and {outer} are one table, which modules_to_save would tear apart; take them "
            "out of modules_to_save, or set ensure_weight_tying=True"
        )
    if head.bias is not None and outer not in whole:
        raise LoraError(
            f"{outer} has a bias, which PEFT drops where it trains single rows; train the whole "
            f"table: modules_to_save=[{outer!r}]"
        )
    asked = config.trainable_token_indices or {}
    if isinstance(asked, list):
        asked = {inner: asked}
    rows: dict[str, list[int]] = {}
    for key, chosen in asked.items():
        # PEFT unties a table whose two ends are given different rows: one entry stands for both.
        name = next((name for name in (inner, outer) if name.endswith(key)), key)
        name = inner if name == outer and tied(model) else name
        rows[name] = [*rows.get(name, []), *chosen]
    for name in tables:
        if name not in whole:
            rows[name] = list(dict.fromkeys([*rows.get(name, []), *ids]))
    every = [name for name, _ in model.named_modules()]
    config.trainable_token_indices = {_short(name, every): rows[name] for name in rows} or None
    return config


def ready_head(model: PreTrainedModel | PeftModel) -> None:
    """Give an output table whose rows train the ``bias`` of None that TRL's fused loss reads.

    PEFT's wrapper passes on only ``weight`` of the table it holds, and TRL asks for ``bias`` too.
    Needed with PEFT 0.21.2 and TRL 1.16.0, after every wrapping or loading. Idempotent.
    """
    if not isinstance(model, PeftModel):
        return
    head = model.get_base_model().get_output_embeddings()
    if isinstance(head, TrainableTokensWrapper):
        head.register_parameter("bias", None)


def save_record(model: PeftModel, folder: str | Path) -> None:
    """Write beside an adapter which layout it was trained with: null for an ordinary model's.

    An adapter has no ``config.json`` and must have none: transformers would take the folder for
    a whole model and miss its weights.
    """
    text = json.dumps({"multiverse": model.config.to_dict().get("multiverse")}, indent=2)
    (Path(folder) / RECORD).write_text(f"{text}\n", encoding="utf-8")


def merge_adapter(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str = "auto",
    overwrite: bool = False,
    max_shard_size: str = SHARD_SIZE,
) -> Merged:
    """Write the model of an adapter to ``out`` as a plain checkpoint, tokenizer included.

    The tokenizer is the adapter's where it has one, and so is the record of the layout
    (:func:`save_record`); else they are the base model's.

    Args:
        base: the model under the adapter; by default the one the adapter names.
        dtype: ``auto`` for that of the base model.

    Raises:
        CheckpointError: a part does not load, or ``out`` must not be written.
        DialectError: the tokenizer has no tags.
    """
    adapter, out = Path(adapter), Path(out)
    if not (adapter / "adapter_config.json").is_file():
        raise CheckpointError(f"{adapter} holds no adapter: there is no adapter_config.json")
    base = base or PeftConfig.from_pretrained(adapter).base_model_name_or_path
    if not base:
        raise CheckpointError(f"the adapter in {adapter} names no base model; give it with --base")
    check_place(out, overwrite=overwrite, sources=(adapter, base))
    own = (adapter / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(adapter if own else base)
    Dialect.from_tokenizer(tokenizer)
    model, dtype = load(base, dtype)
    try:
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    except Exception as error:
        raise CheckpointError(
            f"the adapter in {adapter} does not fit {base}: {type(error).__name__}: {error}"
        ) from error
    recorded = _record(adapter)
    if recorded is not None:  # the base may have been trained otherwise
        vars(merged.config).pop("multiverse", None)
        if recorded["multiverse"] is not None:
            merged.config.multiverse = recorded["multiverse"]
    with new_folder(out) as folder:
        merged.save_pretrained(folder, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(folder)
    layout = (merged.config.to_dict().get("multiverse") or {}).get("layout")
    return Merged(str(adapter), str(base), str(out), dtype, layout)


def _record(adapter: Path) -> dict[str, Any] | None:
    for name in (RECORD, "config.json"):  # the latter where someone has put the model's beside it
        if (adapter / name).is_file():
            held = json.loads((adapter / name).read_text(encoding="utf-8"))
            return {"multiverse": held.get("multiverse")}
    return None


def _name(model: PreTrainedModel, module: torch.nn.Module) -> str:
    return next(name for name, one in model.named_modules() if one is module)


def _short(name: str, every: list[str]) -> str:
    """The last part of ``name`` where no other name ends so, which is how TRL spells it."""
    last = name.rpartition(".")[2]
    return last if [one for one in every if one.endswith(last)] == [name] else name
