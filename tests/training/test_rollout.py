"""Rollouts, rewards and weights for reinforcement learning, without SGLang: what is read from an
engine's answers, what is asked of it, and what is said when it cannot serve. The real engine is
asked in tests/e2e/test_grpo.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.layout import layout
from sglang_multiverse.sequencer import Limits
from sglang_multiverse.tiny import task
from sglang_multiverse.training.attention import enable_multiverse_attention
from sglang_multiverse.training.grpo.completion import EXTRAS, read_completion
from sglang_multiverse.training.grpo.engine import EngineClient, EngineError
from sglang_multiverse.training.grpo.rewards import (
    latency_reward,
    tiny_correctness,
    validity_reward,
    where_right,
)
from sglang_multiverse.training.grpo.rollout import MultiverseRollout
from sglang_multiverse.training.grpo.trainer import MultiverseGRPOTrainer
from sglang_multiverse.training.grpo.weights import save_policy

from .http_stub import Answer, answering
from .worked_answers import config, recorded, some_problems, worked

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")


@pytest.fixture(scope="module")
def problems() -> list[task.Problem]:
    return some_problems()


# What is read from an answer.


def test_loss_falls_on_what_the_model_chose_alone(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect
) -> None:
    """Every token with a loss sees its left neighbour, so TRL's shift by one scores it right."""
    for problem in problems:
        prompt, ids, meta = worked(problem, tokenizer, dialect)
        read = read_completion(prompt, ids, [-0.5] * len(ids), meta, dialect)
        written = {i for a, b in meta["multiverse_injected"] for i in range(a, b)}
        assert read.faithful
        assert read.env_mask == [int(i not in written) for i in range(len(ids))]
        hidden = layout([*prompt, *ids], dialect).left_hidden[len(prompt) :]
        assert hidden.any()
        assert not (hidden & np.array(read.env_mask, dtype=bool)).any()
        assert read.issues == []
        assert (read.forks, read.critical_path) == (
            meta["multiverse_forks"],
            meta["multiverse_critical_path_tokens"],
        )


def test_an_answer_the_trainer_reads_otherwise_carries_no_loss(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect
) -> None:
    """The engine declined the goals, so it attended causally to what looks like forked paths."""
    nested = next(p for p in problems if any(one.nested for one in p.definitions))
    prompt, ids, forked = worked(nested, tokenizer, dialect)
    causal = {
        **forked,
        "multiverse_injected": [],
        "multiverse_forks": 0,
        "multiverse_paths": 0,
        "multiverse_critical_path_tokens": len(ids),
        "multiverse_parallelism": 1.0,
    }
    read = read_completion(prompt, ids, [-0.5] * len(ids), causal, dialect)
    assert not read.faithful
    assert read.env_mask == [0] * len(ids)
    told = read_completion(prompt, ids, [-0.5] * len(ids), causal, dialect, Limits(max_depth=0))
    assert told.faithful
    assert told.env_mask == [1] * len(ids)


def test_departures_from_canonical_form_are_named(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect
) -> None:
    prompt, ids, meta = worked(problems[0], tokenizer, dialect)
    think = tokenizer.convert_tokens_to_ids("</Think>")
    cut = ids[: ids.index(think)]
    read = read_completion(prompt, cut, [0.0] * len(cut), meta, dialect)
    assert "unclosed_think" in read.issues


# Rewards.


def test_rewards() -> None:
    question = "Let A = 482+395, B = 913-278. Which is largest, A or B?"
    right, wrong = "…\nAnswer: A = 877", "…\nAnswer: B = 877"
    texts = [right, [{"role": "assistant", "content": right + "<|im_end|>"}], wrong, "no answer"]
    assert tiny_correctness(texts, [question] * 4, step=1) == [1.0, 1.0, 0.0, 0.0]
    ends = ["stop", "stop", "length"]
    assert validity_reward([""] * 3, [[], ["stray_tag"], []], ends) == [1.0, 0.0, 0.0]
    quick = partial(latency_reward, budget=200)
    assert quick([""] * 3, critical_path=[50, 300, 50], finish_reason=ends) == [0.75, 0.0, 0.0]


def test_short_answers_that_are_wrong_earn_nothing_for_it() -> None:
    question = "Let A = 482+395. What is A?"
    reward = where_right(tiny_correctness, partial(latency_reward, budget=100))
    given = {"question": [question] * 2, "critical_path": [60, 10], "finish_reason": ["stop"] * 2}
    texts = ["Answer: 877", "Answer: 1"]
    assert reward(prompts=["", ""], completions=texts, **given) == pytest.approx([0.4, 0.0])
    assert reward.__name__ == "latency_reward"


# A server that is asked over HTTP.


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    yield from answering()


def answered(ids: list[int], **meta: Any) -> dict[str, Any]:
    return {
        "output_ids": ids,
        "meta_info": {
            "finish_reason": {"type": "stop"},
            "output_token_logprobs": [[-0.1, token, None] for token in ids],
            **meta,
        },
    }


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (200, answered([5, 6]), "without the plugin.*--plugin multiverse"),
        (200, answered([5], finish_reason={"type": "abort", "message": "no room"}), "no room"),
        (
            200,
            {**answered([5, 6], multiverse_injected=[]), "output_ids": [5, 7]},
            "do not all belong",
        ),
        (400, {"error": {"message": "unknown field"}}, "HTTP 400.*unknown field"),
    ],
)
def test_an_answer_that_cannot_be_trained_on_says_why(
    serve: Any, status: int, said: Any, message: str
) -> None:
    url = serve(lambda path, body: (status, said))
    with pytest.raises(EngineError, match=message) as error:
        EngineClient(url).generate([1, 2], {})
    assert url in str(error.value)


def test_no_server_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(EngineError, match=r"127.0.0.1:9.*sglang serve --plugin multiverse"):
        EngineClient("http://127.0.0.1:9").generate([1], {})


def test_refused_weights_are_an_error(serve: Any, tmp_path: Path) -> None:
    url = serve(lambda path, body: (400, {"success": False, "message": "size mismatch"}))
    with pytest.raises(EngineError, match=r"size mismatch.*same|own architecture"):
        EngineClient(url).update_weights(tmp_path, "1")


def test_kv_of_old_weights_is_an_error(serve: Any, tmp_path: Path) -> None:
    def answer(path: str, body: Any) -> tuple[int, Any]:
        flush = path.startswith("/flush_cache")
        return (400, "requests are running") if flush else (200, {"success": True})

    with pytest.raises(EngineError, match="kept KV of the old"):
        EngineClient(serve(answer)).update_weights(tmp_path, "1")


def test_sampling_that_the_trainer_must_know_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="set temperature in GRPOConfig"):
        MultiverseRollout("http://x", tokenizer, sampling={"temperature": 0.7})
    with pytest.raises(ValueError, match="sync_every"):
        MultiverseRollout("http://x", tokenizer, sync_every=0)


# The policy.


def every_second(completions: list[Any], critical_path: list[int], **extras: Any) -> list[float]:
    assert set(EXTRAS) <= {"critical_path", *extras}
    assert len(completions) == len(critical_path)
    # The answers to one prompt are the same here, and rewards must differ to teach anything.
    return [float(i % 2) for i, _ in enumerate(critical_path)]


def test_trl_gets_one_completion_for_every_prompt_it_passes(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect, make_model: Any, tmp_path: Path
) -> None:
    """A real GRPOTrainer: prompts come repeated, seeds differ, weights go over after each step."""
    engine = recorded(problems[:6], tokenizer, dialect)
    rows = [{"prompt": [{"role": "user", "content": task.prompt(p, "parallel")}]} for p in problems]
    model = make_model(len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    rollout = MultiverseRollout(engine, tokenizer, seed=7, weights="disk")
    trainer = MultiverseGRPOTrainer(
        model,
        every_second,
        config(tmp_path),
        Dataset.from_list(rows[:6]),
        rollout_func=rollout,
        processing_class=tokenizer,
    )
    trainer.train()
    steps = [engine.asked[at : at + 4] for at in range(0, 12, 4)]
    assert len(engine.asked) == 12
    for asked in steps:
        prompts = sorted(prompt for prompt, _ in asked)
        assert prompts[0] == prompts[1] != prompts[2] == prompts[3]
    seeds = [params["sampling_seed"] for _, params in engine.asked]
    assert len(set(seeds)) == 12
    for _, params in engine.asked:
        assert params["temperature"] == 0.9
        assert params["max_new_tokens"] == 640
    assert [version for version, _ in engine.given] == ["7-step-0", "7-step-1", "7-step-2"]
    first, second = (model.model.norm.weight for _, model in engine.given[:2])
    assert not torch.equal(first, second)
    for row in trainer.state.log_history[:3]:
        assert np.isfinite(row["loss"])
        assert row["grad_norm"] > 0
        assert row["multiverse/forked"] == 1.0
        assert row["multiverse/unfaithful"] == 0.0
        assert row["sampling/sampling_logp_difference/max"] < 1e-5


def test_trls_own_trainer_takes_the_rollout(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect, make_model: Any, tmp_path: Path
) -> None:
    engine = recorded(problems[:2], tokenizer, dialect)
    rows = [{"prompt": [{"role": "user", "content": task.prompt(p, "parallel")}]} for p in problems]
    rollout = MultiverseRollout(engine, tokenizer, weights="disk")
    model = make_model(len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    trainer = GRPOTrainer(
        enable_multiverse_attention(model, dialect=rollout.dialect),
        every_second,
        config(tmp_path, max_steps=2),
        Dataset.from_list(rows[:2]),
        rollout_func=rollout,
        processing_class=tokenizer,
    )
    trainer.train()
    assert [version for version, _ in engine.given] == ["0-step-0", "0-step-1"]
    assert all(row["grad_norm"] > 0 for row in trainer.state.log_history[:2])


def test_an_engine_with_other_logprobs_is_an_error(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect, make_model: Any, tmp_path: Path
) -> None:
    engine = recorded(problems[:2], tokenizer, dialect)
    engine.off = 0.7
    rows = [{"prompt": [{"role": "user", "content": task.prompt(p, "parallel")}]} for p in problems]
    trainer = MultiverseGRPOTrainer(
        make_model(len(tokenizer), pad_token_id=tokenizer.pad_token_id),
        every_second,
        config(tmp_path),
        Dataset.from_list(rows[:2]),
        rollout_func=MultiverseRollout(engine, tokenizer, weights="disk"),
        processing_class=tokenizer,
    )
    with pytest.raises(EngineError, match=r"worked-answers are 0\.70 nats off"):
        trainer.train()


@pytest.mark.parametrize(
    ("unlike", "said"),
    [
        ({"architecture": "LlamaForCausalLM"}, "serves LlamaForCausalLM, the policy is a Qwen2"),
        ({"shares": 64}, "serves with share_every=64, the policy was trained with None"),
    ],
)
def test_a_server_of_another_model_gets_no_weights(
    problems: list[task.Problem],
    tokenizer: Any,
    dialect: Dialect,
    make_model: Any,
    tmp_path: Path,
    unlike: dict[str, Any],
    said: str,
) -> None:
    engine = recorded(problems[:2], tokenizer, dialect)
    vars(engine).update(unlike)
    rows = [{"prompt": [{"role": "user", "content": task.prompt(p, "parallel")}]} for p in problems]
    trainer = MultiverseGRPOTrainer(
        make_model(len(tokenizer), pad_token_id=tokenizer.pad_token_id),
        every_second,
        config(tmp_path),
        Dataset.from_list(rows[:2]),
        rollout_func=MultiverseRollout(engine, tokenizer, weights="disk"),
        processing_class=tokenizer,
    )
    with pytest.raises(EngineError, match=said):
        trainer.train()
    assert engine.given == []


def test_weights_go_over_every_k_steps(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect, make_model: Any, tmp_path: Path
) -> None:
    engine = recorded(problems[:4], tokenizer, dialect)
    rows = [{"prompt": [{"role": "user", "content": task.prompt(p, "parallel")}]} for p in problems]
    trainer = MultiverseGRPOTrainer(
        make_model(len(tokenizer), pad_token_id=tokenizer.pad_token_id),
        every_second,
        config(tmp_path, max_steps=4),
        Dataset.from_list(rows[:4]),
        rollout_func=MultiverseRollout(engine, tokenizer, sync_every=3, weights="disk"),
        processing_class=tokenizer,
    )
    trainer.train()
    assert [version for version, _ in engine.given] == ["0-step-0", "0-step-3"]


def test_weights_that_another_process_changed_are_noticed(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect, make_model: Any
) -> None:
    engine = recorded(problems[:1], tokenizer, dialect)
    engine.given.append(("theirs", enable_multiverse_attention(make_model(len(tokenizer)))))
    rollout = MultiverseRollout(engine, tokenizer, weights="disk")
    rollout.version = "ours"
    (prompt,) = engine.answers
    with pytest.raises(EngineError, match=r"'theirs'.*'ours'"):
        rollout.complete(list(prompt), {"temperature": 1.0})


def test_a_dataset_column_is_not_overwritten(
    problems: list[task.Problem], tokenizer: Any, dialect: Dialect, make_model: Any, tmp_path: Path
) -> None:
    engine = recorded(problems[:1], tokenizer, dialect)
    with pytest.raises(ValueError, match="forks would be overwritten"):
        MultiverseGRPOTrainer(
            make_model(len(tokenizer)),
            every_second,
            config(tmp_path),
            Dataset.from_list([{"prompt": "x", "forks": 1}]),
            rollout_func=MultiverseRollout(engine, tokenizer, weights="disk"),
            processing_class=tokenizer,
        )


def test_adapters_are_merged_for_the_server_and_stay_as_they_are(
    tokenizer: Any, make_model: Any, tmp_path: Path
) -> None:
    adapted = get_peft_model(
        make_model(len(tokenizer)),
        LoraConfig(
            target_modules=["q_proj", "v_proj", "down_proj"],
            trainable_token_indices={"embed_tokens": [3, 4]},
            r=4,
        ),
    )
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "trainable_tokens" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    before = {name: weight.clone() for name, weight in adapted.state_dict().items()}
    ids = torch.arange(1, 20).unsqueeze(0)
    with torch.no_grad():
        expected = adapted(ids).logits
    save_policy(adapted, tmp_path)
    served = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(served(ids).logits, expected, atol=1e-5, rtol=1e-5)
    after = adapted.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
