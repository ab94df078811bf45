"""Batches: every text as if alone, and labels only where the model chooses."""

from __future__ import annotations

from itertools import chain, islice

import pytest
import torch

from sglang_multiverse.layout import layout
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny.factory.exam import encode
from sglang_multiverse.tiny.task import generate
from sglang_multiverse.training.attention import dense_mask, enable_multiverse_attention
from sglang_multiverse.training.collator import IGNORED, MultiverseCollator, injected


@pytest.fixture
def texts(tokenizer) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer ids of a nested, a staged and a single problem."""
    kinds = ("nested", "staged", "single")
    problems = [next(generate(3, "train", {kind: 1.0})) for kind in kinds]
    return [encode(problem, "parallel", tokenizer) for problem in problems]


@pytest.fixture
def collator(tokenizer, dialect) -> MultiverseCollator:
    return MultiverseCollator(pad_token_id=tokenizer.pad_token_id, dialect=dialect)


def example(prompt: list[int], answer: list[int]) -> dict[str, list[int]]:
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def test_rows_are_laid_out_whole_and_padding_is_alone(collator, dialect, texts):
    batch = collator([example(*text) for text in texts])
    length = max(len(p) + len(a) for p, a in texts)
    assert {tuple(value.shape) for value in batch.values()} == {(3, length)}
    assert batch["multiverse_order"].dtype is torch.int32
    mask = dense_mask(batch["multiverse_order"])[:, 0]
    for row, (prompt, answer) in enumerate(texts):
        ids = prompt + answer
        n = len(ids)
        laid = layout(ids, dialect)
        alone = dense_mask(torch.from_numpy(laid.order)[None])[0, 0]
        assert batch["input_ids"][row, :n].tolist() == ids
        assert batch["position_ids"][row, :n].tolist() == laid.position.tolist()
        assert torch.equal(mask[row, :n, :n], alone)
        assert not mask[row, n:, :n].any()
        assert mask[row].any(-1).all()
        assert batch["attention_mask"][row].sum() == n
        assert (batch["labels"][row, n:] == IGNORED).all()


def test_a_block_that_a_user_quotes_is_words(collator, tokenizer, dialect, texts):
    """As the server reads it: structure is what an assistant says."""
    _, answer = texts[0]
    quoted = tokenizer.decode(answer[: answer.index(tokenizer.eos_token_id)])
    messages = [{"role": "user", "content": f"What does this mean? {quoted}"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert len(parse(answer, dialect).blocks) >= 1
    batch = collator([example(list(prompt), answer)])
    position = batch["position_ids"][0].tolist()
    assert position[: len(prompt)] == list(range(len(prompt)))
    assert position[len(prompt) :] == [len(prompt) + p for p in layout(answer, dialect).position]


def test_packed_texts_have_the_logits_they_have_alone(collator, texts, tokenizer, make_model):
    model = enable_multiverse_attention(make_model(vocab=len(tokenizer)))
    rows = [example(*text) for text in texts]
    packed = {key: list(chain.from_iterable(row[key] for row in rows)) for key in rows[0]}
    packed["seq_lengths"] = [len(row["input_ids"]) for row in rows]

    def logits(examples: list[dict]) -> torch.Tensor:
        batch = collator(examples)
        batch.pop("labels")
        return model(**batch).logits

    together = logits([packed])[0].split(packed["seq_lengths"])
    padded = logits(rows)
    for row, alone in enumerate(rows):
        expected = logits([alone])[0]
        torch.testing.assert_close(together[row], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(padded[row, : len(expected)], expected, atol=1e-4, rtol=1e-4)
    labels = collator([packed])["labels"][0]
    assert torch.equal(labels, torch.cat([collator([row])["labels"][0] for row in rows]))


def test_the_engine_writes_just_separators_and_openings(dialect, texts, tokenizer):
    _, answer = texts[0]
    made = injected(parse(answer, dialect), answer, dialect)
    runs: list[str] = []
    for t, token in enumerate(answer):
        if made[t]:
            piece = tokenizer.decode([token])
            runs = [*runs[:-1], runs[-1] + piece] if t and made[t - 1] else [*runs, piece]
    openings = [run for run in runs if "<Path>" in run]
    assert set(runs) - set(openings) <= {"\n<Conclusion>\n"}
    assert {run.strip("\n").removeprefix("<Path>\n") for run in openings} >= {"1:", "2:"}
    assert any("." in run for run in openings)


def test_no_loss_on_what_the_engine_writes_nor_where_nothing_could_predict(
    collator, dialect, texts, tokenizer
):
    prompt, answer = texts[0]
    ids = prompt + answer
    labels = collator([example(prompt, answer)])["labels"][0]
    written = injected(parse(ids, dialect), ids, dialect)
    assert (labels[: len(prompt)] == IGNORED).all()
    assert (labels[torch.from_numpy(written)] == IGNORED).all()
    kept = [ids[t] for t in range(len(prompt), len(ids)) if not written[t]]
    assert labels[labels != IGNORED].tolist() == kept

    collator.loss_on_injected = True
    labels = collator([example(prompt, answer)])["labels"][0]
    hidden = layout(ids, dialect).left_hidden
    assert (labels[torch.from_numpy(hidden)] == IGNORED).all()
    kept = [ids[t] for t in range(len(prompt), len(ids)) if not hidden[t]]
    assert labels[labels != IGNORED].tolist() == kept


def test_a_text_cut_anywhere_is_laid_out_as_before(collator, texts):
    prompt, answer = texts[0]
    whole = collator([example(prompt, answer)])
    mask = dense_mask(whole["multiverse_order"])[0, 0]
    for cut in range(len(prompt), len(prompt) + len(answer), 37):
        part = collator([{k: v[:cut] for k, v in example(prompt, answer).items()}])
        assert torch.equal(part["position_ids"][0], whole["position_ids"][0, :cut])
        assert torch.equal(dense_mask(part["multiverse_order"])[0, 0], mask[:cut, :cut])


def test_the_batch_is_padded_to_a_multiple(tokenizer, dialect, texts):
    collator = MultiverseCollator(
        pad_token_id=tokenizer.pad_token_id, dialect=dialect, pad_to_multiple_of=128
    )
    batch = collator([example(*text) for text in islice(texts, 2)])
    assert all(value.shape[1] % 128 == 0 for value in batch.values())


@pytest.mark.parametrize("variant", ["autoregressive", "no-mask", "no-positions"])
def test_the_ablations_change_one_thing_each(collator, tokenizer, dialect, texts, variant):
    other = MultiverseCollator(
        pad_token_id=tokenizer.pad_token_id, dialect=dialect, variant=variant
    )
    prompt, answer = max(texts, key=lambda text: len(text[1]))
    length = len(prompt) + len(answer)
    ours, theirs = (each([example(prompt, answer)]) for each in (collator, other))
    assert torch.equal(theirs["position_ids"][0], torch.arange(length))
    if variant == "no-positions":
        assert torch.equal(theirs["multiverse_order"], ours["multiverse_order"])
        assert torch.equal(theirs["labels"], ours["labels"])
    else:
        assert torch.equal(theirs["multiverse_order"][0], torch.arange(length).int())
        assert theirs["labels"][0].tolist() == [IGNORED] * len(prompt) + answer
