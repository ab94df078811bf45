"""Rewards by name and by module: what is found, what is refused, and what each is worth."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sglang_multiverse.training.grpo.rewards import (
    MathReward,
    Reward,
    RewardError,
    Schedule,
    make_rewards,
    parallel_reward,
)
from sglang_multiverse.training.grpo.rewards.mathematics import named_answer
from sglang_multiverse.training.grpo.rewards.named import Spec

HOSTILE = """
import sys, time
def raises(completions, **kwargs): raise KeyError("no\\nsuch key")
def exits(completions, **kwargs): sys.exit("bye")
def nothing(completions, **kwargs): return None
def strings(completions, **kwargs): return ["good"] * len(completions)
def short(completions, **kwargs): return [1.0]
def nan(completions, **kwargs): return [float("nan")] * len(completions)
def lists(completions, **kwargs): return [[1.0, 2.0]] * len(completions)
def by_position(completions, /): return [0.0] * len(completions)
def no_arguments(): return []
def prints(completions, **kwargs):
    print("loud"); print("louder", file=sys.stderr)
    return [0.5] * len(completions)
def sleeps(completions, **kwargs):
    try: time.sleep(30)
    except Exception: pass
    return [0.0] * len(completions)
async def later(completions, **kwargs): return [0.25] * len(completions)
def wants(completions, label): return [float(one == "x") for one in label]
not_a_function = 3
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    """A user's file of rewards."""
    path = tmp_path / "my_rewards.py"
    path.write_text(HOSTILE)
    return str(path)


def made(*specs: str, **options: Any) -> list[Reward]:
    return make_rewards(specs, **options)[0]


GIVEN = {"completions": ["a", "b"], "prompts": ["p", "p"], "completion_ids": [[1], [2]]}


# Names, weights and schedules.


def test_a_spec_holds_name_weight_and_steps() -> None:
    assert Spec.parse("math") == Spec("math", None, None)
    assert Spec.parse("a.b:c=0.5@9-10/10") == Spec("a.b:c", 0.5, Schedule(9, 10, 10))
    assert Spec.parse("./x.py:f@1-200") == Spec("./x.py:f", None, Schedule(1, 200))
    assert make_rewards(["tiny", "validity=0.2"])[1] == [None, 0.2]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("mth", "unknown reward 'mth'; did you mean math"),
        ("math=lots", "the weight after = is a number"),
        ("math=inf", "the weight after = is a number"),
        ("math@ten", "steps are FIRST-LAST or FIRST-LAST/WINDOW"),
        ("math@0-3", "counted from 1"),
        ("math@9-12/10", "counted from 1"),
        ("no_such_module:f", r"does not import \(ModuleNotFoundError.*file.py:function"),
        ("nowhere/file.py:f", "no file /.*nowhere/file.py"),
        ("latency", "name math or module:function first"),
        ("", "write NAME"),
    ],
)
def test_a_reward_that_cannot_be_found_says_what_there_is(spec: str, said: str) -> None:
    with pytest.raises(RewardError, match=said) as error:
        made(spec)
    assert "\n" not in str(error.value)


def test_no_reward_at_all_is_an_error() -> None:
    with pytest.raises(RewardError, match=r"which reward\? --reward math"):
        made()


def test_a_module_that_fails_on_import_says_why(tmp_path: Path) -> None:
    for name, text in {"syntax": "def f(:", "raise": "1/0", "exit": "raise SystemExit(3)"}.items():
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        with pytest.raises(RewardError, match="does not import") as error:
            made(f"{path}:f")
        assert "\n" not in str(error.value)


def test_a_module_is_found_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "found_from_here.py").write_text("def f(completions): return [2.0, 3.0]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    (reward,) = made("found_from_here:f")
    assert reward(**GIVEN) == [2.0, 3.0]
    with pytest.raises(RewardError, match="has no function 'g'; it has f"):
        made("found_from_here:g")


def test_a_reward_counts_in_the_steps_of_its_schedule() -> None:
    """Parallel-R1: the last two of every ten steps; and a phase that ends."""
    windows, phase = Schedule.parse("9-10/10"), Schedule.parse("1-200")
    assert [step for step in range(1, 31) if windows.on(step - 1)] == [9, 10, 19, 20, 29, 30]
    assert [step for step in (1, 200, 201) if phase.on(step - 1)] == [1, 200]

    right = Reward(lambda completions, **kwargs: [1.0, 0.0], name="right")
    both = made("tiny", "parallel=0.2@9-10/10")
    both[1] = Reward(parallel_reward, schedule=windows)
    for done, expected in ((0, [0.0, 0.0]), (8, [1.0, 0.0]), (10, [0.0, 0.0])):
        state = SimpleNamespace(global_step=done)
        assert both[1](**GIVEN, forks=[2, 0], trainer_state=state) == expected
        assert right(**GIVEN, trainer_state=state) == [1.0, 0.0]


def test_latency_and_forks_count_in_right_answers_alone(module: str, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(
        "calls = 0\n"
        "def judge(completions, **kwargs):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    return [1.0, 0.0, None]\n"
        "def count(completions, **kwargs): return [float(calls)] * 3\n"
    )
    judge = f"{tmp_path}/judge.py:judge"
    rewards = made(judge, "latency", "parallel", latency_budget=100)
    given = {
        "completions": ["a", "b", "c"],
        "forks": [1, 1, 1],
        "critical_path": [25, 25, 25],
        "finish_reason": ["stop"] * 3,
    }
    values = [reward(**given) for reward in rewards]
    assert values == [[1.0, 0.0, None], [0.75, 0.0, 0.0], [1.0, 0.0, 0.0]]
    # The judge, which may be slow, ran once on the batch.
    assert rewards[0].function.__self__.function.__globals__["calls"] == 1
    assert [one.__name__ for one in rewards] == ["judge", "latency_reward", "parallel_reward"]
    with pytest.raises(RewardError, match="--right validity is none of the rewards"):
        made(judge, "latency", right="validity")


def test_two_functions_of_one_name_are_logged_apart(module: str, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(HOSTILE)
    names = [one.__name__ for one in made(f"{module}:prints", f"{other}:prints", "validity")]
    assert names == [f"{module}:prints", f"{other}:prints", "validity_reward"]


# What a user's function may do.


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises", r"raised KeyError.*no.*such key.*my_rewards.py:3"),
        ("exits", "raised SystemExit: bye"),
        ("nothing", "returned None; it returns a list with one number for each of the 2"),
        ("strings", r"returned 'good' \(str\) for completion 0; it returns numbers"),
        ("short", "returned 1 values for 2 completions"),
        ("nan", "returned nan for completion 0; it returns finite numbers"),
        ("lists", "one value per path needs --path_advantages"),
        ("sleeps", "took over 0.2 s for one batch"),
    ],
)
def test_a_function_that_misbehaves_ends_in_one_line(module: str, function: str, said: str) -> None:
    (reward,) = made(f"{module}:{function}", seconds=0.2)
    begun = time.monotonic()
    with pytest.raises(RewardError, match=said) as error:
        reward(**GIVEN)
    assert time.monotonic() - begun < 5
    assert str(error.value).startswith(f"reward {function} ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("by_position", r"takes completions by position.*def reward\(completions, \*\*kwargs\)"),
        ("no_arguments", "takes no arguments"),
        ("not_a_function", "has no function 'not_a_function'; it has raises"),
    ],
)
def test_a_function_of_another_signature_is_refused_at_once(
    module: str, function: str, said: str
) -> None:
    with pytest.raises(RewardError, match=said):
        made(f"{module}:{function}")


def test_a_column_that_a_function_takes_must_be_there(module: str) -> None:
    (reward,) = made(f"{module}:wants")
    with pytest.raises(RewardError, match=r"takes label, which is neither a column.*answer, compl"):
        reward.check(["completions", "answer"])
    reward.check(["completions", "label"])
    # Without **kwargs it gets what it names, and no more.
    assert reward(**GIVEN, label=["x", "y"], other=[1, 2]) == [1.0, 0.0]


def test_functions_may_print_wait_and_return_arrays(module: str) -> None:
    assert made(f"{module}:prints")[0](**GIVEN) == [0.5, 0.5]
    assert made(f"{module}:later")[0](**GIVEN) == [0.25, 0.25]
    for array in (np.array([1, 2]), torch.tensor([1, 2]), (True, np.float32(2))):
        assert Reward(lambda completions, array=array: array)(**GIVEN) == [1.0, 2.0]


def test_one_value_for_each_path() -> None:
    """A completion's reward is the mean of its paths'; without paths it is nought."""
    reward = Reward(lambda completions: [[1.0, 0.0, 2.0], []], per_path=True)
    assert reward(**GIVEN, path_spans=[[[0, 1], [1, 2], [2, 3]], []]) == [1.0, 0.0]
    assert reward.path_values == [[1.0, 0.0, 2.0], []]
    fresh = Reward(lambda completions: [[1.0, 0.0], 0.0], per_path=True)
    with pytest.raises(RewardError, match="2 values for the 3 paths of completion 0"):
        fresh(**GIVEN, path_spans=[[[0, 1]] * 3, []])


# Mathematics.


@pytest.mark.parametrize(
    ("reference", "text", "value"),
    [
        ("42", r"so it is \boxed{42}", 1.0),
        ("Janet sells …\n#### 1,234", "The answer is 1234.", 1.0),
        (r"Hence $x = \boxed{\frac{3}{4}}$.", "…\nAnswer: 0.75", 1.0),
        ("42", "I count 42 of them.", 0.0),  # no answer is named
        ("42", r"\boxed{41}, no: \boxed{43}", 0.0),
        ("42", "first\n#### 42", 1.0),
        ("B", "Answer: (B)", 1.0),
        (42, "Answer: 42", 1.0),
        ("A = 877", "…\nAnswer: A = 877", 1.0),
        ("42", "", 0.0),
        ("42", "\\boxed{" * 400, 0.0),
        (None, "Answer: 1", None),
        ("  ", "Answer: 1", None),
    ],
)
def test_mathematics(reference: Any, text: str, value: float | None) -> None:
    reward = MathReward()
    assert reward([text], answer=[reference]) == [value]
    assert reward([[{"role": "assistant", "content": text}]], solution=[reference]) == [value]


def test_a_pair_that_takes_for_ever_is_wrong_and_the_next_is_judged() -> None:
    reward = MathReward(seconds=1.0)
    tower = r"\boxed{9^{9^{9^{9}}}}"
    found = reward([r"\boxed{1+9^{9^{9^{9}}}}", "Answer: 7", "Answer: 8"], answer=[tower, "7", "7"])
    assert found == [0.0, 1.0, 0.0]


def test_the_column_of_the_reference() -> None:
    assert MathReward("gold")(["Answer: 5"], gold=["5"], answer=["6"]) == [1.0]
    (reward,) = made("math", answer_column="gold")
    with pytest.raises(RewardError, match=r"reads the column gold, which.*--answer_column"):
        reward.check(["answer", "completions"])
    (reward,) = made("math")
    with pytest.raises(RewardError, match="column answer or solution or final_answer"):
        reward.check(["question", "completions"])


@pytest.mark.parametrize("text", ["", "\n\n", "{" * 9, "#### ", "Answer:", "\\boxed", "\x00 �"])
def test_no_text_makes_the_search_for_an_answer_raise(text: str) -> None:
    assert named_answer(text) is None
    assert not math.isnan(MathReward()([text], answer=["1"])[0] or 0.0)
