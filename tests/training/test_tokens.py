"""Tags for a checkpoint without any: what is added, where the rows begin, what stays as it was."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from torch.nn.functional import cosine_similarity
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PhiConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
)

from sglang_multiverse.dialect import MULTIVERSE, Dialect, DialectError, Tag
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.tiny.solution import solution
from sglang_multiverse.tiny.task import generate, prompt
from sglang_multiverse.training.checkpoint import CheckpointError
from sglang_multiverse.training.tokens import TagError, add_tags, prepare_model, tied
from tests.core.tokenizers_made import byte_level

TEXTS = (
    "The path to the goal is a path of thinking; the conclusion ends it.",
    "An outline of two parallel paths: think, then conclude. Path, goal, conclusion, outline.",
    "Parallel lines never meet. 12 + 30 = 42, and so on.",
)
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>\n{% endfor %}"
OTHER = dataclasses.replace(
    MULTIVERSE, name="other", tags=tuple(tag.replace("<", "<|") for tag in MULTIVERSE.tags)
)


def plain_tokenizer(tags: tuple[str, ...] = ()) -> Qwen2Tokenizer:
    """A Qwen2 tokenizer with the family's kinds of added tokens: special, and not special."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False),
    )
    learnt = json.loads(learner.to_str())["model"]
    made = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", "<|fim_pad|>", *tags],
        chat_template=TEMPLATE,
    )
    made.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return made


def small(family: type, rows: int, tie: bool, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(1)
    config = family(
        vocab_size=rows,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=tie,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        **changes,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def tokenizer() -> Qwen2Tokenizer:
    return plain_tokenizer()


KINDS = [(Qwen2Config, True), (Qwen2Config, False), (LlamaConfig, True), (LlamaConfig, False)]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0].__name__[:5]}-{'tied' * kind[1]}")
def model(request: pytest.FixtureRequest, tokenizer: Qwen2Tokenizer) -> PreTrainedModel:
    family, tie = request.param
    return small(family, len(tokenizer), tie)


@pytest.fixture
def source(tmp_path: Path, model: PreTrainedModel, tokenizer: Qwen2Tokenizer) -> Path:
    model.generation_config.temperature = 0.7
    model.generation_config.do_sample = True
    model.save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def one_source(tmp_path: Path, tokenizer: Qwen2Tokenizer) -> Path:
    small(Qwen2Config, len(tokenizer), True).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def tables(model: PreTrainedModel) -> Iterator[torch.Tensor]:
    yield model.get_input_embeddings().weight.detach()
    yield model.get_output_embeddings().weight.detach()


def state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


# The tokenizer.


def test_tags_become_tokens_beside_the_models_own(model, tokenizer):
    before = tokenizer.get_vocab()
    special = list(tokenizer.all_special_tokens)
    assert add_tags(model, tokenizer) == list(MULTIVERSE.tags)
    vocabulary = tokenizer.get_vocab()
    assert {word: vocabulary[word] for word in before} == before
    assert [vocabulary[tag] for tag in MULTIVERSE.tags] == list(range(len(before), len(vocabulary)))
    assert tokenizer.all_special_tokens == special  # the tags are text of the answer
    dialect = Dialect.from_tokenizer(tokenizer)
    assert tokenizer.encode("a<Path>b") == [
        *tokenizer.encode("a"),
        dialect[Tag.PATH],
        *tokenizer.encode("b"),
    ]


def test_a_tokenizer_that_fuses_label_and_colon_is_refused():
    fusing = PreTrainedTokenizerFast(tokenizer_object=byte_level(tags=(), merges=[("1", ":")]))
    with pytest.raises(DialectError, match="fuses the colon"):
        add_tags(small(Qwen2Config, len(fusing), True), fusing)


# The rows.


def test_rows_begin_in_the_cloud_of_rows_and_apart_from_each_other(model, tokenizer):
    known = torch.tensor(sorted(tokenizer.get_vocab().values()))
    add_tags(model, tokenizer)
    ids = torch.tensor(Dialect.from_tokenizer(tokenizer).tag_ids)
    for table in tables(model):
        mean = table[known].mean(0)
        spread = (table[known] - mean).norm(dim=1)
        away = table[ids] - mean
        torch.testing.assert_close(away.norm(dim=1), spread.median().expand(12))
        between = cosine_similarity(away[:, None], away[None], dim=-1).fill_diagonal_(0)
        assert between.max() <= 0.5 + 1e-5
        for opener in range(0, 12, 2):  # they share their words, and nothing else
            torch.testing.assert_close(between[opener, opener + 1], torch.tensor(0.5))
        others = cosine_similarity(away[:, None], (table[known] - mean)[None], dim=-1)
        assert others.max() < 0.8


def test_a_row_leans_to_its_words_by_one_over_root_two(model, tokenizer):
    known = torch.tensor(sorted(tokenizer.get_vocab().values()))
    words = {
        tag: sorted({i for text in spelt for i in tokenizer.encode(text)})
        for tag, spelt in {
            Tag.PATH: ("Path", "path", " Path", " path"),
            Tag.END_GOAL: ("Goal", "goal", " Goal", " goal"),
        }.items()
    }
    add_tags(model, tokenizer)
    dialect = Dialect.from_tokenizer(tokenizer)
    for table in tables(model):
        mean = table[known].mean(0)
        for tag, ids in words.items():
            meant = table[ids].mean(0) - mean
            found = cosine_similarity(table[dialect[tag]] - mean, meant, dim=0)
            torch.testing.assert_close(found, torch.tensor(2**-0.5))
            own = cosine_similarity((table[dialect[tag]] - mean)[None], table[ids] - mean)
            assert own.max() < 0.8  # published checkpoints had rows equal to the word's


def test_every_other_weight_stays_bit_for_bit(model, tokenizer):
    was, shared, size = state(model), tied(model), len(tokenizer)
    add_tags(model, tokenizer)
    for name, tensor in state(model).items():
        assert torch.equal(tensor[:size] if tensor.shape != was[name].shape else tensor, was[name])
    assert tied(model) == shared
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0]


def test_tables_grow_to_the_next_multiple_of_64_and_never_shrink(tokenizer):
    size = len(tokenizer)
    for rows, wanted in [
        (size, -(-(size + 12) // 64) * 64),
        (size + 11, -(-(size + 12) // 64) * 64),
        (size + 12, size + 12),
        (size + 500, size + 500),
    ]:
        for tie in (True, False):
            model = small(Qwen2Config, rows, tie)
            was = next(tables(model)).clone()
            add_tags(model, plain_tokenizer())
            for table in tables(model):
                assert len(table) == wanted
            if rows == wanted:
                rest = [i for i in range(rows) if not size <= i < size + 12]
                assert torch.equal(next(tables(model))[rest], was[rest])


def test_rows_of_no_token_are_the_mean_row(model, tokenizer):
    known = sorted(tokenizer.get_vocab().values())
    add_tags(model, tokenizer)
    for table in tables(model):
        padding = table[len(tokenizer) :]
        assert len(padding)
        torch.testing.assert_close(padding, table[known].mean(0).expand_as(padding))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_model_gets_the_same_rows(tokenizer, dtype):
    made = []
    for seed in (3, 4):
        model = small(LlamaConfig, len(tokenizer), False).to(dtype)
        torch.manual_seed(seed)
        add_tags(model, plain_tokenizer())
        made.append(state(model))
    assert same(*made)
    new = made[0]["lm_head.weight"][len(tokenizer) :]
    assert new.dtype == dtype
    assert len(new.float().unique(dim=0)) == 13  # twelve tags and the mean row


def test_a_second_time_changes_nothing(model, tokenizer):
    add_tags(model, tokenizer)
    vocabulary, was = tokenizer.get_vocab(), state(model)
    torch.manual_seed(9)
    assert add_tags(model, tokenizer) == []
    assert tokenizer.get_vocab() == vocabulary
    assert same(state(model), was)


def test_only_missing_tags_are_given_rows():
    there = MULTIVERSE.tags[4:10]
    tokenizer = plain_tokenizer(tags=there)
    model = small(Qwen2Config, len(tokenizer), True)
    was = next(tables(model)).clone()
    assert add_tags(model, tokenizer) == [*MULTIVERSE.tags[:4], *MULTIVERSE.tags[10:]]
    assert torch.equal(next(tables(model))[: len(was)], was)
    assert len(next(tables(model))[Dialect.from_tokenizer(tokenizer).tag_ids,].unique(dim=0)) == 12


@pytest.mark.parametrize("special", [False, True])
def test_tags_are_text_whatever_the_tokens_were(tmp_path, special):
    tokenizer = plain_tokenizer()
    tokenizer.add_tokens([AddedToken("<Path>", normalized=False, special=special)])
    model = small(Qwen2Config, len(tokenizer), True)
    was = next(tables(model)).clone()
    assert "<Path>" not in add_tags(model, tokenizer)
    assert torch.equal(next(tables(model))[: len(was)], was)
    tokenizer.save_pretrained(tmp_path)
    back = AutoTokenizer.from_pretrained(tmp_path)
    assert not set(MULTIVERSE.tags) & set(back.all_special_tokens)
    told = "a<Path>b</Think>"
    assert back.decode(back.encode(f"{told}<|im_end|>"), skip_special_tokens=True) == told


def test_tags_without_rows_are_given_rows():
    tokenizer = plain_tokenizer(tags=MULTIVERSE.tags)
    ids = Dialect.from_tokenizer(tokenizer).tag_ids
    model = small(Qwen2Config, ids[0], True)  # whoever added them forgot the model
    assert add_tags(model, tokenizer) == list(MULTIVERSE.tags)
    assert len(next(tables(model))[ids,].unique(dim=0)) == 12


def test_an_output_bias_does_not_favour_tags(tokenizer):
    model = small(PhiConfig, len(tokenizer), False)
    with torch.no_grad():
        model.lm_head.bias.normal_(mean=-3)
    was = model.lm_head.bias.detach().clone()
    add_tags(model, tokenizer)
    assert torch.equal(model.lm_head.bias[: len(was)], was)
    torch.testing.assert_close(
        model.lm_head.bias[len(was) :], was.mean().expand(len(model.lm_head.bias) - len(was))
    )


def test_a_trained_model_writes_what_it_wrote(tokenizer):
    """Rows of another dialect, given to the shipped model, do not get in its way."""
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    trained = AutoTokenizer.from_pretrained(MODEL_DIR)
    size = len(trained)
    texts = [
        torch.tensor([trained.encode(prompt(problem, "parallel") + solution(problem, "parallel"))])
        for problem in islice(generate(5, "test"), 20)
    ]
    with torch.no_grad():
        before = [model(input_ids=ids).logits[0, :, :size] for ids in texts]
        add_tags(model, trained, OTHER)
        after = [model(input_ids=ids).logits[0] for ids in texts]
    for was, now in zip(before, after, strict=True):
        torch.testing.assert_close(now[:, :size], was, atol=1e-4, rtol=1e-5)
        assert torch.equal(now.argmax(-1), was.argmax(-1))
    share = torch.cat(after).softmax(-1)[:, size:].sum(-1)
    print(f"{len(share):,} tokens: tags draw {share.mean():.2e} of the probability")
    assert share.mean() < 0.001


def test_models_without_tables_at_hand_are_refused(tokenizer):
    config = small(Qwen2Config, len(tokenizer), True).config
    with pytest.raises(TagError, match="no output table"):
        add_tags(AutoModel.from_config(config), tokenizer)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    with pytest.raises(TagError, match="multiverse prepare-model"):
        add_tags(empty, tokenizer)
    narrow = small(Qwen2Config, len(tokenizer), True, head_dim=2)
    narrow.set_input_embeddings(torch.nn.Embedding(len(tokenizer), 8))
    narrow.tie_weights()
    with pytest.raises(TagError, match="8 numbers cannot hold 12"):
        add_tags(narrow, tokenizer)


# The checkpoint.


def test_a_prepared_checkpoint_is_the_model_with_its_tags(tmp_path, source, model, tokenizer):
    rows = model.get_input_embeddings().weight.shape[0]
    done = prepare_model(source, tmp_path / "deep" / "out")
    add_tags(model, tokenizer)
    back = AutoModelForCausalLM.from_pretrained(done.out, dtype="auto")
    assert same(state(back), state(model))
    assert tied(back) == tied(model) == done.tied
    assert (done.rows_before, done.rows) == (rows, back.config.vocab_size)
    written = AutoTokenizer.from_pretrained(done.out)
    assert written.get_vocab() == tokenizer.get_vocab()
    assert sorted(written.all_special_tokens) == sorted(tokenizer.all_special_tokens)
    assert written.chat_template == TEMPLATE
    dialect = Dialect.from_tokenizer(written)
    assert tuple(done.token_ids.values()) == dialect.tag_ids
    assert list(done.token_ids) == done.added == list(MULTIVERSE.tags)
    assert not hasattr(AutoConfig.from_pretrained(done.out), "multiverse")
    assert back.generation_config.temperature == 0.7
    assert back.generation_config.eos_token_id == 1


def test_preparing_a_prepared_checkpoint_keeps_every_byte_of_weights(tmp_path, source):
    first = prepare_model(source, tmp_path / "one")
    second = prepare_model(tmp_path / "one", tmp_path / "two")
    assert len(first.added) == 12
    assert second.added == []
    for name in ("model.safetensors", "tokenizer.json", "config.json", "generation_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_large_weights_are_written_in_shards(tmp_path, one_source):
    whole = prepare_model(one_source, tmp_path / "whole")
    parts = prepare_model(one_source, tmp_path / "parts", max_shard_size="100KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    loaded = [AutoModelForCausalLM.from_pretrained(done.out) for done in (whole, parts)]
    assert same(*map(state, loaded))
    again = prepare_model(tmp_path / "parts", tmp_path / "again", max_shard_size="100KB")
    assert again.added == []
    for file in (tmp_path / "parts").glob("*.safetensors"):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_a_dtype_may_be_chosen(tmp_path, one_source):
    done = prepare_model(one_source, tmp_path / "out", dtype="bfloat16")
    assert done.dtype == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(done.out, dtype="auto").dtype == torch.bfloat16
    assert prepare_model(tmp_path / "out", tmp_path / "kept").dtype == "bfloat16"


# What must not happen.


def test_a_failed_run_leaves_nothing_behind(tmp_path, one_source, monkeypatch):
    prepare_model(one_source, tmp_path / "kept")
    was = {file.name: file.read_bytes() for file in (tmp_path / "kept").iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Qwen2Tokenizer, "save_pretrained", full)
    for out in ("new", "kept"):
        with pytest.raises(OSError, match="no space left"):
            prepare_model(one_source, tmp_path / out, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "source"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "kept").iterdir()} == was


def test_places_that_hold_something_are_refused(tmp_path, one_source):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(one_source)
    for out, overwrite, message in [
        (one_source, True, "would overwrite"),
        (one_source / "prepared", True, "would overwrite"),
        (tmp_path / "link", True, "would overwrite"),
        (tmp_path, True, "would overwrite"),
        (tmp_path / "notes", False, "not empty.*--overwrite"),
        (tmp_path / "notes", True, "holds no checkpoint"),
        (tmp_path / "file", True, "is a file"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            prepare_model(one_source, out, overwrite=overwrite)
    assert (tmp_path / "notes" / "diary.txt").read_text() == "dear"


def test_a_checkpoint_is_replaced_when_asked(tmp_path, one_source):
    (tmp_path / "out").mkdir()
    prepare_model(one_source, tmp_path / "out")
    (tmp_path / "out" / "stale.bin").write_text("x")
    with pytest.raises(CheckpointError, match="--overwrite"):
        prepare_model(one_source, tmp_path / "out")
    prepare_model(one_source, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "stale.bin").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_do_not_fill_the_model_are_refused(tmp_path, one_source):
    edit_weights(one_source, lambda weights: weights.update(extra=torch.ones(2)))
    with pytest.raises(CheckpointError, match=r"no place for extra.*would be lost"):
        prepare_model(one_source, tmp_path / "out")
    edit_weights(one_source, lambda weights: weights.pop("extra"))
    edit_weights(one_source, lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"lack model\.norm\.weight"):
        prepare_model(one_source, tmp_path / "out")
    (one_source / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="does not load"):
        prepare_model(one_source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_model_is_refused(tmp_path, one_source):
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        prepare_model(tmp_path / "nowhere", tmp_path / "out")
    config = json.loads((one_source / "config.json").read_text())
    quantized = config | {"quantization_config": {"quant_method": "fp8"}}
    (one_source / "config.json").write_text(json.dumps(quantized))
    with pytest.raises(CheckpointError, match="is quantized"):
        prepare_model(one_source, tmp_path / "out")
    (one_source / "config.json").unlink()
    with pytest.raises(CheckpointError, match="holds no"):
        prepare_model(one_source, tmp_path / "out")
