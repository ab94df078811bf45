"""What each token learns from: answers that are left out, tags, and values of single paths."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl.trainer.utils import nanstd

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.tiny import task
from sglang_multiverse.training.grpo.advantages import (
    deviations,
    path_advantages,
    spread_of,
    token_mask,
)
from sglang_multiverse.training.grpo.completion import read_completion
from sglang_multiverse.training.grpo.rewards import RewardError
from sglang_multiverse.training.grpo.rollout import MultiverseRollout
from sglang_multiverse.training.grpo.trainer import MultiverseGRPOTrainer

from .worked_answers import config, recorded, some_problems, worked

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")


@pytest.fixture(scope="module")
def problems() -> list[task.Problem]:
    return some_problems()


# Paths of an answer.


def test_spans_of_paths_hold_their_texts(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect
) -> None:
    """In text order; a nested path lies in the one around it; nothing but paths is in them."""
    nested = 0
    for problem in problems:
        prompt, ids, meta = worked(problem, tokenizer, dialect)
        read = read_completion(
            prompt, ids, [0.0] * len(ids), meta, dialect,
            decode=lambda part: tokenizer.decode(part, skip_special_tokens=True).strip(),
        )  # fmt: skip
        opening, closing = (tokenizer.convert_tokens_to_ids(tag) for tag in ("<Path>", "</Path>"))
        assert len(read.path_spans) == read.paths == ids.count(opening)
        assert read.path_tokens == [end - start for start, end in read.path_spans]
        assert read.path_spans == sorted(read.path_spans)
        for (start, end), text in zip(read.path_spans, read.path_texts, strict=True):
            assert ids[start] == opening
            assert closing in ids[end - 3 : end]
            assert text[0].isdigit()
            assert "Path" not in text
        for one, two in itertools.combinations(read.path_spans, 2):
            apart, within = one[1] <= two[0], two[1] <= one[1]
            assert apart or within
            nested += within
    assert nested


# Masks.


def test_left_out_answers_and_tags_carry_no_loss() -> None:
    mask, ids = [[1, 0, 1], [1, 1, 1]], [[7, 8, 9], [7, 5, 9]]
    none = frozenset[int]()
    assert token_mask(mask, ids, left_out=[False, False], tags=none) == mask
    assert token_mask(mask, ids, left_out=[True, False], tags=none) == [[0, 0, 0], [1, 1, 1]]
    assert token_mask(mask, ids, left_out=[False, False], tags=frozenset({9, 8})) == [
        [1, 0, 0],
        [1, 1, 0],
    ]


# Advantages.

GROUPS = torch.tensor([1.0, 0.0, 2.0, 1.0, 3.0, 3.0, torch.nan, 0.0])


def trls(rewards: torch.Tensor, scale: str) -> torch.Tensor:
    """As TRL computes them."""
    groups = rewards.view(-1, 4)
    over = rewards - groups.nanmean(1).repeat_interleave(4)
    if scale == "none":
        return over.nan_to_num(0.0)
    if scale == "batch":
        deviation = nanstd(rewards).expand_as(rewards)
    else:
        deviation = nanstd(groups, dim=1).repeat_interleave(4)
    return (over / (deviation + 1e-4)).nan_to_num(0.0)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_paths_of_equal_value_leave_trls_advantages(scale: str) -> None:
    values = [[[0.5, 0.5], None, [], [2.0], None, None, [1.0, 1.0], None]]
    counts = [2, 0, 0, 1, 0, 3, 2, 0]
    paths = deviations(values, [0.7], counts)
    found = path_advantages(
        GROUPS, torch.tensor([spread_of(row) for row in paths]), slice(0, 8), paths,
        [[[i, i + 1] for i in range(count)] for count in counts], 6, generations=4, scale=scale,
    )  # fmt: skip
    assert found.shape == (8, 6)
    torch.testing.assert_close(found, trls(GROUPS, scale).unsqueeze(1).expand(8, 6))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_tokens_of_a_path_learn_from_its_value(scale: str) -> None:
    """Two answers of equal reward, one with a good and a bad path: only these tell them apart."""
    rewards = torch.tensor([1.0, 1.0])
    paths = deviations([[[2.0, 0.0], None]], [0.5], [2, 0])
    assert paths == [[0.5, -0.5], []]
    found = path_advantages(
        rewards, torch.tensor([spread_of(row) for row in paths]), slice(0, 2), paths,
        [[[1, 3], [3, 4]], []], 5, generations=2, scale=scale,
    )  # fmt: skip
    # The variance over both answers is (0.25 + 0) / 2.
    deviation = 1.0 if scale == "none" else 0.125**0.5 + 1e-4
    expected = torch.tensor([[0.0, 0.5, 0.5, -0.5, 0.0], [0.0] * 5]) / deviation
    torch.testing.assert_close(found, expected)


def test_of_nested_paths_the_innermost_counts() -> None:
    paths = deviations([[[3.0, 0.0, 0.0]], [[1.0, 2.0, 3.0]]], [1.0, 1.0], [3])
    found = path_advantages(
        torch.tensor([0.0]), torch.zeros(1), slice(0, 1), paths, [[[0, 4], [1, 3], [5, 6]]], 6,
        generations=1, scale="none",
    )  # fmt: skip
    assert paths == [[1.0, -1.0, 0.0]]
    assert found.tolist() == [[1.0, -1.0, -1.0, 1.0, 0.0, 0.0]]


# In a trainer.


def broken(ids: list[int], tokenizer: Any) -> list[int]:
    """The answer without the end of its thought: out of canonical form, to engine and trainer."""
    tag = tokenizer.convert_tokens_to_ids("</Think>")
    return [token for token in ids if token != tag]


def trainer_of(
    problems: list[task.Problem],
    tokenizer: Any,
    dialect: Dialect,
    make_model: Any,
    out: Path,
    reward: Any,
    **options: Any,
) -> MultiverseGRPOTrainer:
    engine = recorded(problems, tokenizer, dialect)
    rows = [{"prompt": [{"role": "user", "content": task.prompt(p, "parallel")}]} for p in problems]
    return MultiverseGRPOTrainer(
        make_model(len(tokenizer), pad_token_id=tokenizer.pad_token_id),
        reward,
        config(out, max_steps=1),
        Dataset.from_list(rows),
        rollout_func=MultiverseRollout(engine, tokenizer, weights="disk"),
        processing_class=tokenizer,
        **options,
    )


def scored(trainer: MultiverseGRPOTrainer) -> dict[str, Any]:
    """What a step is made of, from the rows of the first batch."""
    trainer.model.train()
    rows = [trainer.train_dataset[i] for i in (0, 0, 1, 1)]
    return trainer._generate_and_score_completions([dict(row) for row in rows])


def breaking(trainer: MultiverseGRPOTrainer, tokenizer: Any, *, of: int) -> None:
    """Every second answer to prompt ``of`` comes back out of canonical form."""
    engine = trainer.rollout_func.client
    prompt = trainer.rollout_func._encode(trainer.train_dataset[of]["prompt"], trainer)
    generate, turns = engine.generate, itertools.count()

    def answer(input_ids: list[int], params: dict[str, Any]) -> Any:
        if input_ids == prompt and next(turns) % 2 == 0:
            ids, meta = engine.answers[tuple(input_ids)]
            cut = broken(ids, tokenizer)
            lost = ids.index(tokenizer.convert_tokens_to_ids("</Think>"))
            spans = [[a - (a > lost), b - (b > lost)] for a, b in meta["multiverse_injected"]]
            shorter = meta["multiverse_critical_path_tokens"] - 1
            engine.answers[tuple(input_ids)] = (
                cut,
                {
                    **meta,
                    "multiverse_injected": spans,
                    "multiverse_critical_path_tokens": shorter,
                },
            )
            try:
                return generate(input_ids, params)
            finally:
                engine.answers[tuple(input_ids)] = ids, meta
        return generate(input_ids, params)

    trainer.rollout_func.concurrency = 1
    engine.generate = answer


def by_place(completions: list[Any], **kwargs: Any) -> list[float]:
    return [float(i) for i, _ in enumerate(completions)]


@pytest.mark.parametrize("structural_filter", ["none", "advantage", "loss"])
def test_answers_out_of_canonical_form_are_left_out(
    problems: list[task.Problem],
    tokenizer: Any,
    dialect: Dialect,
    make_model: Any,
    tmp_path: Path,
    structural_filter: str,
) -> None:
    trainer = trainer_of(
        problems[:2], tokenizer, dialect, make_model, tmp_path, by_place,
        structural_filter=structural_filter,
    )  # fmt: skip
    breaking(trainer, tokenizer, of=0)
    step = scored(trainer)
    advantages, mask = step["advantages"], step["tool_mask"] * step["completion_mask"]
    metrics = trainer._metrics["train"]
    if structural_filter == "none":
        assert (advantages != 0).all()
        assert metrics["multiverse/filtered"] == [0.0]
        assert metrics["reward"] == [pytest.approx(1.5)]
    else:
        # Of the first group one answer is left, which has none to be compared with.
        assert (advantages[:2] == 0).all()
        assert (advantages[2:] != 0).all()
        assert metrics["multiverse/filtered"] == [0.25]
        assert metrics["reward"] == [pytest.approx(2.0)]  # of 1, 2 and 3
    assert mask[1].any()
    assert bool(mask[0].any()) == (structural_filter != "loss")
    assert step["num_items_in_batch"] == mask.sum()


def test_tags_carry_loss_unless_told_otherwise(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect, make_model: Any, tmp_path: Path
) -> None:
    counts = {}
    for tag_gradient in (True, False):
        trainer = trainer_of(
            problems[:2], tokenizer, dialect, make_model, tmp_path, by_place,
            tag_gradient=tag_gradient,
        )  # fmt: skip
        step = scored(trainer)
        mask = (step["tool_mask"] * step["completion_mask"]).bool()
        tags = torch.isin(step["completion_ids"], torch.tensor(list(dialect.tag_of)))
        counts[tag_gradient] = int((mask & tags).sum()), int((mask & ~tags).sum())
    assert counts[True][0] > 0
    assert counts[False][0] == 0
    assert counts[True][1] == counts[False][1] > 0


def first_path_is_best(completions: list[Any], path_texts: list[list[str]]) -> list[Any]:
    return [[1.0] + [0.0] * (len(texts) - 1) if texts else 0.0 for texts in path_texts]


def test_advantages_of_paths_reach_the_loss(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect, make_model: Any, tmp_path: Path
) -> None:
    """Answers of a group are the same, so that whole answers teach nothing: paths do."""
    trainer = trainer_of(
        problems[:2], tokenizer, dialect, make_model, tmp_path, first_path_is_best,
        path_advantages=True,
    )  # fmt: skip
    step = scored(trainer)
    assert step["advantages"].shape == step["completion_ids"].shape
    ids, _ = next(iter(trainer.rollout_func.client.answers.values()))
    opening = tokenizer.convert_tokens_to_ids("<Path>")
    first, second = [at for at, token in enumerate(ids) if token == opening][:2]
    row = step["advantages"][0]
    assert (row[:first] == 0).all()
    assert (row[first:second] > 0).all()
    assert row[second] < 0
    assert row[len(ids) - 1] == 0
    trainer.train()
    assert trainer.state.log_history[0]["grad_norm"] > 0


def test_values_of_paths_need_the_option(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect, make_model: Any, tmp_path: Path
) -> None:
    trainer = trainer_of(problems[:2], tokenizer, dialect, make_model, tmp_path, first_path_is_best)
    with pytest.raises(RewardError, match="--path_advantages"):
        trainer.train()


def test_settings_and_columns_are_checked_at_once(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect, make_model: Any, tmp_path: Path
) -> None:
    given = (problems[:2], tokenizer, dialect, make_model, tmp_path)
    with pytest.raises(ValueError, match="structural_filter='all': one of none, advantage, loss"):
        trainer_of(*given, by_place, structural_filter="all")
    with pytest.raises(RewardError, match=r"<lambda> takes label.*path_spans"):
        trainer_of(*given, lambda completions, label: [0.0])
    with pytest.raises(RewardError, match="takes prompt, which is neither"):
        trainer_of(*given, lambda completions, prompt: [0.0])
