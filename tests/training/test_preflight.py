"""What a dry run approves trains, what it counts is what is trained on, and it leaves no trace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
import yaml
from peft import LoraConfig
from transformers import TrainerCallback

from sglang_multiverse.structure import parse
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.tiny.dataset import tiny_rows
from sglang_multiverse.training import sft
from sglang_multiverse.training.collator import IGNORED
from sglang_multiverse.training.preflight.example import rendered
from sglang_multiverse.training.preflight.memory import Sharding, configured, memory
from sglang_multiverse.training.preflight.template import template_warning
from sglang_multiverse.training.refusals import ConfigError, in_a_line
from sglang_multiverse.training.trainer import MultiverseSFTConfig, MultiverseSFTTrainer
from sglang_multiverse.training.validity import structure_metrics

from .refusals import SHORT, Room

QWEN3 = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"


def flags(folder: Path, *more: str) -> list[str]:
    short = [word for key, value in SHORT.items() for word in (f"--{key}", str(value))]
    return ["--config", "tiny", *short, "--output_dir", str(folder / "out"), *more]


def rehearsal(folder: Path, capsys: Any, *more: str) -> str:
    capsys.readouterr()
    assert sft.run(*sft.parse(flags(folder, "--dry_run", *more))) is None
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--attn_implementation", "sdpa"),
        ("--attn_implementation", "eager", "--share_every", "8"),
        ("--packing", "true", "--gradient_checkpointing", "true"),
        ("--variant", "autoregressive", "--prompt_mode", "auto"),
        ("--variant", "no-mask"),
        ("--curriculum", "true", "--train_sampling_strategy", "sequential"),
        ("--use_peft", "true", "--lora_target_modules", "all-linear"),
        ("--eval_strategy", "steps", "--eval_generations", "1", "--eval_max_new_tokens", "20"),
        ("--optim", "adafactor", "--bf16", "true"),
        ("--loss_on_injected", "true", "--save_strategy", "steps", "--save_steps", "1"),
    ],
    ids=" ".join,
)
def test_what_a_dry_run_approves_trains(tmp_path, capsys, more):
    said = rehearsal(tmp_path, capsys, *more)
    assert said.endswith("nothing was trained\n")
    assert "attention was not tried" not in said
    assert list(tmp_path.iterdir()) == []
    trainer = sft.run(*sft.parse(flags(tmp_path, *more)))
    assert trainer is not None and trainer.state.global_step == 1
    told = capsys.readouterr().out.splitlines()
    counts = [line for line in said.splitlines() if line.startswith(("train:", "eval:"))]
    assert counts and set(counts) - {x for x in counts if "packed into" in x} <= set(told)


def test_a_stream_is_rehearsed_and_trained(tmp_path, capsys):
    stream = ("--dataset_name", Room(tmp_path).data(), "--dataset_streaming", "true")
    said = rehearsal(tmp_path, capsys, *stream)
    assert "streamed; examples are screened as they are read" in said
    assert "«\n" in said.replace("  | ", "")
    assert sft.run(*sft.parse(flags(tmp_path, *stream))).state.global_step == 1


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--packing", "true"),
        ("--variant", "no-mask"),
        ("--variant", "no-positions"),
        ("--share_every", "4"),
        ("--loss_on_injected", "true"),
    ],
    ids=" ".join,
)
def test_tokens_are_counted_as_trained_where_they_carry_loss(tmp_path, more):
    trainer = sft.run(*sft.parse(flags(tmp_path, "--tiny_rows", "12", *more)))
    carrying = sum(
        int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in trainer.get_train_dataloader()
    )
    counts = trainer.screenings["train"]
    assert counts.trained_tokens == carrying
    labelled = sum(
        sum(label != IGNORED for label in row) for row in trainer.train_dataset["labels"]
    )
    assert (carrying < labelled) == (more not in [("--variant", "no-mask")])


def test_blocks_paths_and_depth_are_those_of_the_texts(tmp_path, dialect):
    trainer = sft.run(*sft.parse(flags(tmp_path, "--tiny_rows", "30")))
    traces = [parse(ids, dialect) for ids in trainer.train_dataset["input_ids"]]
    counts = trainer.screenings["train"]
    assert counts.forking == sum(trace.n_blocks > 0 for trace in traces)
    assert counts.blocks == sum(trace.n_blocks for trace in traces)
    assert counts.paths == sum(trace.n_paths for trace in traces)
    assert counts.depth == max(trace.depth for trace in traces)


def test_the_example_shows_each_token_as_the_collator_labels_it(tmp_path, tokenizer):
    trainer = sft.run(*sft.parse(flags(tmp_path)))
    row = max(trainer.train_dataset, key=lambda one: len(one["input_ids"]))
    text = rendered(tokenizer, trainer.data_collator, row)
    assert re.sub("[‹›«»]", "", text) == tokenizer.decode(row["input_ids"])
    labels = trainer.data_collator([row])["labels"][0]
    bare = re.sub("‹[^›]*›|«[^»]*»", "", text)
    assert bare == tokenizer.decode(labels[labels != IGNORED])
    assert re.search(r"</Goal>«\n<Path>\n1:»", text)
    assert text.startswith("‹<|im_start|>user\n")


def test_texts_without_a_block_are_warned_of(tmp_path, capsys):
    plain = {"prompt": "2+2? ", "completion": "<Think>\nFour.\n</Think>\n\nAnswer: 4"}
    data = ("--dataset_name", Room(tmp_path).data([plain, plain]))
    warning = "warning: no example of the train dataset holds a block"
    assert warning in rehearsal(tmp_path, capsys, *data)
    sft.run(*sft.parse(flags(tmp_path, *data)))
    assert warning in capsys.readouterr().out
    assert "warning" not in rehearsal(tmp_path / "other", capsys)


def test_rows_of_a_curated_corpus_that_hold_no_question_are_told(tmp_path, capsys):
    text = tiny_rows(0, "train", 1)[0]["completion"][0]["content"]
    row = {"question": "2?", "text": text, "text_sequential": "2.", "outline": "1.", "gates": []}
    data = ("--dataset_name", Room(tmp_path).data([row] * 3))
    (said,) = re.findall("^warning: .*", rehearsal(tmp_path, capsys, *data), re.MULTILINE)
    assert "holds no question" in said and "--dataset_config mixed" in said
    assert sft.run(*sft.parse(flags(tmp_path, *data))) is not None
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stages", "more", "needed"),
    [
        ([0, 1, 1], (), "train_sampling_strategy: sequential"),
        (
            [0, 1, 1],
            ("--packing", "true"),
            "train_sampling_strategy: sequential, packing: false",
        ),
        (
            [0, 1, 1],
            ("--train_sampling_strategy", "sequential", "--shuffle_dataset", "true"),
            "shuffle_dataset: false",
        ),
        ([0, 1, 1], ("--train_sampling_strategy", "sequential"), ""),
        ([0, 0, 0], (), ""),
    ],
)
def test_settings_that_lose_the_order_of_a_curriculum_are_told(
    tmp_path, capsys, stages, more, needed
):
    rows = [
        {**row, "id": "x", "stage": stage, "parallel": True}
        for row, stage in zip(tiny_rows(0, "train", 3), stages, strict=True)
    ]
    data = ("--dataset_name", Room(tmp_path).data(rows), *more)
    told = re.findall("^warning: .* set (.*)$", rehearsal(tmp_path, capsys, *data), re.MULTILINE)
    assert told == ([needed] if needed else [])


def test_what_a_template_writes_before_the_answer_is_warned_of(tmp_path, capsys, tokenizer):
    template = ("--chat_template_path", str(QWEN3))
    assert "writes '<think>\\n\\n</think>\\n\\n' before" in rehearsal(tmp_path, capsys, *template)
    row: dict[str, Any] = {
        "prompt": [{"role": "user", "content": "2+2?"}],
        "completion": [{"role": "assistant", "content": "<Think>\n4\n</Think>"}],
    }
    assert template_warning(tokenizer, row) is None
    qwen3 = QWEN3.read_text()
    turns = {"messages": row["prompt"] + row["completion"]}
    assert template_warning(tokenizer, turns, qwen3) == template_warning(tokenizer, row, qwen3)
    # Asked not to think, the template asks with what it also writes: nothing differs.
    row["chat_template_kwargs"] = {"enable_thinking": False}
    assert template_warning(tokenizer, row, qwen3) is None
    assert template_warning(tokenizer, {"prompt": "2+2?", "completion": "4"}, qwen3) is None
    thinks = "{{ messages[0].content }}{{ 'T' if add_generation_prompt }}{{ messages[1:]|length }}"
    assert "asks for an answer with 'T0'" in template_warning(tokenizer, row, thinks)


class _Held(TrainerCallback):
    """Bytes that one process holds while it trains."""

    def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        def size(tensors: Any) -> int:
            return sum(x.numel() * x.element_size() for x in tensors)

        states = [x for one in optimizer.state.values() for x in one.values() if x.dim()]
        self.optimizer = size(states)
        self.weights = size(model.parameters())
        self.gradients = size(x.grad for x in model.parameters() if x.grad is not None)


@pytest.mark.parametrize(
    "changes", [{}, {"dtype": "bfloat16"}, {"optim": "sgd"}, {"lora": True}], ids=str
)
def test_the_estimate_is_what_one_process_holds(tmp_path, changes):
    args = MultiverseSFTConfig(
        str(tmp_path),
        max_steps=1,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        optim=changes.get("optim", "adamw_torch"),
        model_init_kwargs={"dtype": changes.get("dtype", "float32")},
    )
    held = _Held()
    script, _, _, mixture = sft.parse(flags(tmp_path))
    trainer = MultiverseSFTTrainer(
        str(MODEL_DIR),
        args,
        train_dataset=sft.load(script, mixture)["train"],
        callbacks=[held],
        peft_config=LoraConfig(target_modules="all-linear") if changes.get("lora") else None,
    )
    trainer.train()
    need = memory(trainer.model, args, 100, Sharding("none", 1))
    assert (need.weights, need.gradients) == (held.weights, held.gradients)
    assert need.optimizer == held.optimizer
    assert need.gathered == 0


def test_sharding_divides_what_it_shards(tmp_path, make_model):
    model = make_model(vocab=512)
    args = MultiverseSFTConfig(str(tmp_path), use_cpu=True, bf16=True)
    need = {
        kind: memory(model, args, 100, Sharding(kind, 8))
        for kind in ("DDP", "FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3")
    }
    count = sum(weight.numel() for weight in model.parameters())
    assert need["DDP"].weights == count * 4
    assert need["DDP"].gradients == 2 * count * 4  # and the buckets they are reduced in
    assert need["FSDP2"].weights == need["FSDP2"].gradients == count * 4 // 8
    assert need["FSDP2"].optimizer == count * 8 // 8
    assert need["ZeRO-1"].gradients == count * 2
    assert need["ZeRO-2"].gradients == need["ZeRO-3"].weights == count * 2 // 8
    assert {one.optimizer for kind, one in need.items() if "ZeRO" in kind} == {count * 12 // 8}
    largest = max(
        sum(w.numel() for w in unit.parameters())
        for unit in (*model.model.layers, model.model.embed_tokens)
    )
    assert need["FSDP2"].gathered == need["ZeRO-3"].gathered == 2 * 2 * largest
    assert need["ZeRO-2"].gathered == need["DDP"].gathered == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ddp", "DDP over 8 processes"),
        ("fsdp2", "FSDP2 over 8 processes"),
        ("zero3", "ZeRO-3 over 8 processes"),
    ],
)
def test_an_accelerate_config_says_over_what_memory_is_counted(tmp_path, capsys, name, says):
    folder = sft.RECIPES / "accelerate"
    (file,) = [one for one in folder.glob("*.yaml") if one.stem == name]
    said = rehearsal(tmp_path, capsys, "--accelerate_config", str(file))
    assert f"memory per GPU, {says}, estimated: " in said


def test_memory_that_runs_out_is_told_in_a_line():
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nProcess 7 has")
    said = in_a_line(full)
    assert "\n" not in said
    assert "(CUDA out of memory): lower per_device_train_batch_size" in said


def test_what_is_no_accelerate_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no accelerate config nowhere"):
        configured("nowhere.yaml")
    for text in ("a: [", "- 1", yaml.safe_dump({"num_processes": "many"})):
        (tmp_path / "accelerate.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"is no accelerate config .*writes one"):
            configured(str(tmp_path / "accelerate.yaml"))


def test_structure_is_judged_where_it_can_be(dialect, tokenizer):
    ids = {
        kind: tokenizer.encode(text)
        for kind, text in {
            "forked": (
                "<Think>\n<Parallel>\n<Goal>\n<Outline>\n1: P\n</Outline>\n<Outline>\n2: Q\n"
                "</Outline>\n</Goal>\n<Path>\n1: A\n</Path>\n<Path>\n2: B\n</Path>\n<Conclusion>\n"
                "AB\n</Conclusion>\n</Parallel>\n</Think>\n4"
            ),
            "plain": "<Think>\nfour\n</Think>\n4",
            "cut": "<Think>\nfo",
        }.items()
    }
    traces = {kind: parse(tokens, dialect) for kind, tokens in ids.items()}

    def metrics(*answers: tuple[str, bool, bool]) -> dict[str, float]:
        return structure_metrics(
            [traces[kind] for kind, _, _ in answers],
            prompts=[1 for _ in answers],
            finished=[finished for _, finished, _ in answers],
            should_fork=[should for _, _, should in answers],
        )

    found = metrics(("forked", True, True), ("plain", True, False), ("cut", False, True))
    assert found["eval_structure_finished"] == pytest.approx(2 / 3)
    assert found["eval_structure_valid"] == 1.0  # the one that was cut off is in no form yet
    assert found["eval_structure_forked"] == 0.5  # of the two that should
    only_cut = metrics(("cut", False, False))
    assert "eval_structure_valid" not in only_cut
    assert "eval_structure_forked" not in only_cut
    assert only_cut["eval_structure_finished"] == 0.0


def test_a_dry_run_holds_no_weights(tmp_path, capsys):
    from sglang_multiverse.training.rehearsal import Rehearsal

    seen = []
    original = Rehearsal._move_model_to_device
    Rehearsal._move_model_to_device = lambda self, model, device: seen.append(
        {weight.device.type for weight in model.parameters()}
    )
    try:
        rehearsal(tmp_path, capsys)
    finally:
        Rehearsal._move_model_to_device = original
    assert seen == [{"meta"}]
