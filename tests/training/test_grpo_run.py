"""The command ``multiverse grpo``: its config, its errors, and the figure of several runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sglang_multiverse.training.grpo import figure
from sglang_multiverse.training.grpo.engine import EngineClient, UnreachableError
from sglang_multiverse.training.grpo.handover import Handover
from sglang_multiverse.training.grpo.report import StepLog
from sglang_multiverse.training.grpo.run import RECIPES, main, parse
from sglang_multiverse.training.recipe_files import recipes

from .architectures import tiny


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Settings.


def test_without_anything_the_tiny_model_learns_the_tiny_task() -> None:
    run, config, _ = parse([])
    assert (run.model, run.dataset_name, run.kinds) == ("tiny", "tiny", ["compare"])
    assert run.reward == ["tiny", "latency=2.0", "validity=0.2"]
    assert (config.max_steps, config.seed, config.bf16) == (20, 42, False)


def test_another_dataset_takes_another_recipe_and_options_win(tmp_path: Path) -> None:
    run, config, model = parse(
        [
            *("--dataset_name", "x.jsonl", "--reward", "math", "--reward=validity=0.1", "a:b"),
            *("--seed", "7", "--no_tag_gradient", "--path_advantages", "--use_peft"),
        ]
    )
    assert run.reward == ["math", "validity=0.1", "a:b"]
    assert (run.ending, run.structural_filter) == ("parallel", "advantage")
    assert (run.tag_gradient, run.path_advantages, model.use_peft) == (False, True, True)
    assert config.seed == 7
    path = tmp_path / "own.yaml"
    path.write_text("reward: [tiny]\nlearning_rate: 1.0e-3\nweights: disk\nout: elsewhere\n")
    run, config, _ = parse(["--config", str(path), "--weights", "memory"])
    assert (run.reward, run.weights, run.out) == (["tiny"], "memory", "elsewhere")
    assert config.learning_rate == 1e-3


def test_every_recipe_can_be_read() -> None:
    assert recipes(RECIPES) == ["math", "tiny"]
    for name in recipes(RECIPES):
        assert parse(["--config", name])[0].reward


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "nope"], "no config file 'nope', nor a recipe of that name: math, tiny"),
        (["--config"], "--config needs a file"),
        (["--config", "bad.yaml"], "bad.yaml is no YAML"),
        (["--config", "list.yaml"], "list.yaml sets no fields"),
        (["--bogus", "3"], r"unknown options: \['--bogus', '3'\]; --help lists all"),
        (["--kinds", "hard"], "kinds: unknown hard; choose from"),
        (["--reward", "mth"], "unknown reward 'mth'"),
        (["--reward_weights", "1", "2"], "reward_weights has 2 entries for 3 rewards"),
        (["--dataset_name", "rows.jsonl", "--reward", "math"], r"which model\? --model"),
        (["--dataset_name", "none.jsonl", "--model", "tiny"], "none.jsonl"),
        (["--dataset_name", "rows.jsonl", "--config", "tiny"], "has no column 'prompt'"),
        (
            ["--dataset_name", "rows.jsonl", "--prompt_column", "q", "--config", "tiny"],
            "reward tiny_correctness takes question, which is neither a column of the dataset",
        ),
        (
            [
                *("--dataset_name", "rows.jsonl", "--prompt_column", "q", "--config", "tiny"),
                *("--reward", "math"),
            ],
            "rows.jsonl gives 2 prompts, and one step takes 8: lower per_device",
        ),
        (["--load_in_4bit"], "load_in_4bit, load_in_8bit: the server would sample from other"),
        (["--max_completion_length", "9999"], "max_completion_length 9999 leaves no prompt room"),
        (["--out", "rows.jsonl"], "out rows.jsonl is a file; choose a folder"),
        (["--model", "nobody/nothing"], "nobody/nothing|huggingface"),
        (["--server_url", "http://127.0.0.1:9"], "no server answers at http://127.0.0.1:9"),
        (["--server_url", "127.0.0.1"], "an address is http://HOST:PORT"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(quick: Path, words: list[str], said: str) -> None:
    (quick / "bad.yaml").write_text("a: [1")
    (quick / "list.yaml").write_text("- 1")
    (quick / "rows.jsonl").write_text('{"q": "x", "answer": 1}\n{"q": "y", "answer": 2}\n')
    with pytest.raises(SystemExit, match=said) as error:
        main(words)
    text = str(error.value)
    assert text.startswith("multiverse grpo: ")
    assert "\n" not in text


def test_a_dry_run_tells_what_would_be_trained(
    quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = quick / "runs"
    main(["--dry_run", "--out", str(out)])
    told = capsys.readouterr().out
    assert "160 prompts of tiny, 60 unseen ones for exams" in told
    assert "20 steps of 8 prompts, 4 answers each, of 512 tokens at most" in told
    assert "tiny_correctness × 1, latency_reward × 2, validity_reward × 0.2" in told
    assert "Which is" in told and told.rstrip().endswith("<|im_start|>assistant")
    assert not out.exists()
    with pytest.raises(SystemExit, match="leaves no prompt room"):
        main(["--dry_run", "--max_completion_length", "9999"])


def test_processes_do_not_start_a_server_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match=r"2 processes would start a server each.*--server_url"):
        main([])


def test_a_server_that_goes_away_is_told_apart_from_one_that_was_never_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first tensors that do not fit end SGLang's scheduler."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    handover = Handover(EngineClient("http://127.0.0.1:9"), "disk")
    with pytest.raises(UnreachableError, match=r"went away while it took.*other sizes"):
        handover.give(tiny("qwen2"), "v1")
    handover.seconds.append(1.0)  # it took weights before
    with pytest.raises(UnreachableError, match="no server answers at"):
        handover.give(tiny("qwen2"), "v2")


# Logs and figures.


def test_a_mean_over_no_answers_is_null_in_the_log(tmp_path: Path) -> None:
    class State:
        global_step, max_steps, is_world_process_zero = 1, 2, True

    log = StepLog(tmp_path / "log.jsonl", Console(quiet=True), ["math_reward"])
    row = {"reward": math.nan, "multiverse/forked": 0.0, "multiverse/critical_path": 9.0}
    log.on_log(None, State, None, row)
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["reward"] is None


def runs(tmp_path: Path, rewards: list[list[Any]], judge: str = "math_reward") -> list[Path]:
    """A log for each list: the reward of its steps."""
    paths = []
    for i, values in enumerate(rewards):
        rows = [
            {
                "step": step,
                "reward": value,
                f"rewards/{judge}/mean": value,
                "multiverse/forked": 0.5,
                "multiverse/critical_path": 100.0,
            }
            for step, value in enumerate(values, 1)
        ]
        path = tmp_path / f"{judge}-{i}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        paths.append(path)
    return paths


def test_means_and_intervals_over_runs(tmp_path: Path) -> None:
    """Student's: of 1, 2 and 3, 2 ± 4.303 / √3; a step that a run lacks is left out."""
    logs = [figure.read(path) for path in runs(tmp_path, [[1, 5, 9], [2, None, 9], [3, 5]])]
    ((step, found),) = figure.by_step(logs, "reward")
    assert (step, found.mean) == (1, 2.0)
    assert found.half == pytest.approx(4.303 / math.sqrt(3))
    assert figure.interval([4.0]) == (4.0, None)
    assert figure.interval([4.0, 4.0]).half == 0.0
    many = figure.interval([0.0, 1.0] * 20)
    assert many.half is not None
    assert many.half < 0.18
    lines = figure.table([figure.read(path) for path in runs(tmp_path, [[0, 2], [1, 2], [2, 2]])])
    assert lines[0] == "| 3 runs | first 1 steps | last 1 steps |"
    assert lines[2] == "| reward | 1.000 ± 2.484 | 2.000 ± 0.000 |"
    assert lines[3].startswith("| answers right | 1.000")


@pytest.mark.parametrize("count", [1, 3])
def test_a_figure_of_several_runs_is_drawn_the_same_twice(tmp_path: Path, count: int) -> None:
    paths = runs(tmp_path, [[1, 2, 3], [2, None, 4], [3, 3, -1, 5]][:count])
    out = tmp_path / "figure.svg"
    figure.draw(paths, out)
    first = out.read_text()
    # One band a panel, where there are runs to have one.
    assert first.count("FillBetween") == (4 if count > 1 else 0)
    figure.draw(paths, out)
    assert len(out.read_text()) == len(first)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no steps"), ("{", "is no log"), ('{"step": 1}', "its steps lack multiverse/")],
)
def test_what_is_no_log(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    with pytest.raises(figure.FigureError, match=said):
        figure.read(path)
    with pytest.raises(figure.FigureError, match="is no log"):
        figure.read(tmp_path / "none.jsonl")


def test_runs_of_other_rewards_are_not_drawn_together(tmp_path: Path) -> None:
    paths = [*runs(tmp_path, [[1]]), *runs(tmp_path, [[1]], "other")]
    with pytest.raises(figure.FigureError, match="first rewards differ"):
        figure.draw(paths, tmp_path / "x.svg")
