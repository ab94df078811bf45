"""``multiverse analyse probing``: sites, their matching, and the whole test on the tiny model."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.data_pipeline.analyses.probing import design, probe
from sglang_multiverse.data_pipeline.analyses.sites import Site, mark, match
from sglang_multiverse.data_pipeline.analyses.states import (
    StatesError,
    device_of,
    layers_of,
    load,
    save,
)
from sglang_multiverse.flatten import flatten_text
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.tiny.dataset import tiny_rows
from sglang_multiverse.tiny.solution import solution
from sglang_multiverse.tiny.task import generate

from .test_analyses_parallelism import block

TRACE = (
    "<Think>\nRead it. It has two parts.\nLet's think in parallel.\n"
    + block("One is 3.\nYes, 3.", "Two is 4.")
    + "Both are known.\nTheir sum is 7.\nLet's think in parallel.\n"
    + block("By hand it is 7.", "By counting it is 7.")
    + "It holds.\n</Think>\n\nAnswer: 7"
)


def test_sites_are_before_blocks_and_at_sentence_ends_outside_them() -> None:
    marked = mark(TRACE)
    assert marked.twin == flatten_text(TRACE)

    def ends(offsets: tuple[int, ...]) -> list[str]:
        return [marked.twin[:at].rstrip("\n").rsplit("\n", 1)[-1] for at in offsets]

    assert ends(marked.before) == ["Read it. It has two parts.", "Their sum is 7."]
    assert ends(marked.elsewhere) == ["<Think>", "Read it.", "Both are known.", "It holds."]
    for at in (*marked.before, marked.elsewhere[0]):
        assert marked.twin[at - 1] == "\n", "the line's end belongs to what it ends"


def test_a_thought_that_begins_with_a_block_is_probed_at_its_beginning() -> None:
    marked = mark("<Think>\nLet's think in parallel.\n" + block("a", "b") + "c\n</Think>\n\nd")
    assert [marked.twin[:at] for at in marked.before] == ["<Think>\n"]
    assert mark("Just this. And that.").before == ()


def site(trace: int, index: int, token: int, parallel: bool) -> Site:
    return Site(trace, index, token, 0.5, parallel)


def test_counterparts_share_the_token_and_if_they_can_the_text() -> None:
    sites = [
        site(0, 10, 7, True),
        site(0, 90, 7, False),
        site(1, 11, 7, False),
        site(1, 50, 7, True),
        site(1, 60, 8, True),
    ]
    found = match(sites)
    assert found.sites == (sites[0], sites[1], sites[3], sites[2])
    assert found.unmatched == 1 and found.same_trace == 2


def made(n: int = 200) -> tuple[Any, np.random.Generator]:
    sites = [site(i // 4, i, 1, bool(i % 2)) for i in range(n)]
    return design(sites, [f"q{i}" for i in range(n)], 5), np.random.default_rng(0)


def test_a_probe_finds_what_is_there_and_nothing_else() -> None:
    found, rng = made()
    noise = rng.normal(size=(len(found.labels), 16))
    signal = noise.copy()
    signal[:, 3] += 4 * found.labels
    row = probe({1: noise.astype(np.float16), 2: signal.astype(np.float16)}, found, 5, 0)
    nothing, something = row["layers"]["1"], row["layers"]["2"]
    assert nothing["interval"][0] < 0.5 < nothing["interval"][1]
    assert something["accuracy"] > 0.9 and something["interval"][0] > 0.85
    assert 0.35 < something["shuffled"]["mean"] < 0.65


def test_what_only_tells_questions_apart_is_chance() -> None:
    """Features that say which question it is would give it away if a question were in two folds."""
    sites = [site(i // 4, i, 1, i // 4 % 2 == 0) for i in range(200)]
    found = design(sites, [f"q{i}" for i in range(50)], 5)
    per_question = np.random.default_rng(1).normal(size=(50, 60))[[s.trace for s in sites]]
    row = probe({1: per_question.astype(np.float16)}, found, 5, 0)
    assert row["layers"]["1"]["accuracy"] < 0.7


def test_states_are_kept_and_not_mixed_up(tmp_path: Path) -> None:
    file = tmp_path / "states.npz"
    assert load(file, "a") is None
    states = {0: np.ones((2, 3), np.float16), 8: np.zeros((2, 3), np.float16)}
    save(file, states, "a")
    found = load(file, "a")
    assert found is not None and set(found) == {0, 8}
    assert np.array_equal(found[8], states[8]) and found[0].dtype == np.float16
    with pytest.raises(StatesError, match="another model, corpus, or choice of layers"):
        load(file, "b")
    file.write_bytes(b"no archive")
    with pytest.raises((StatesError, ValueError)):
        load(file, "a")


def test_layers() -> None:
    assert layers_of(None, 64) == [0, 8, 16, 24, 32, 40, 48, 56, 64]
    assert layers_of(None, 5) == [0, 1, 2, 3, 4, 5] == layers_of("all", 5)
    assert layers_of("5, 1", 5) == [1, 5]
    for wrong in ("6", "x", "-1"):
        with pytest.raises(StatesError, match="layers"):
            layers_of(wrong, 5)


def test_a_large_model_wants_a_gpu(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    weights = tmp_path / "model-00001-of-00001.safetensors"
    with weights.open("wb") as file:
        file.truncate(9 * 2**30)  # sparse
    with pytest.raises(StatesError, match="needs one"):
        device_of(None, tmp_path)
    assert device_of("cpu", tmp_path) == "cpu"
    with pytest.raises(StatesError, match="sees no GPU"):
        device_of("cuda", tmp_path)


def analyse(*arguments: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["analyse", "probing", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result.stdout if exit_code == 0 else result.output


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_tiny_model_knows_what_its_prompt_asked_for(tmp_path: Path) -> None:
    """Its prompts say whether to fork: a probe that did not find that would be broken."""
    file = write(tmp_path / "rows.jsonl", tiny_rows(5, "test", 70))
    options = [file, "--model", MODEL_DIR, "--states", tmp_path / "s.npz", "--layers", "0,3,5"]
    row = json.loads(analyse(*options, "--json"))
    assert row["share_parallel"] == 0.5 and row["sites"] > 60
    assert row["layers"]["0"]["accuracy"] == pytest.approx(0.5, abs=0.15), "one and the same token"
    for layer in ("3", "5"):
        assert row["layers"][layer]["interval"][0] > 0.9
        assert row["layers"][layer]["shuffled"]["mean"] < 0.7
    said = CliRunner().invoke(app, ["analyse", "probing", *map(str, options)])
    assert "hidden states from" in said.stderr and "layer 5" in said.stdout
    said = analyse(*options[:-1], "0,5", exit_code=2)
    assert "choice of layers" in said and "--states" in said


def test_what_the_text_read_so_far_does_not_say_is_not_found(tmp_path: Path) -> None:
    """One prompt for both modes: nothing before the first step says which one follows."""
    problems = [p for p in islice(generate(3, "test"), 200) if len(p.definitions) > 1][:80]
    rows = [
        {"question": str(p), "output": solution(p, "parallel" if i % 2 else "sequential")}
        for i, p in enumerate(problems)
    ]
    file = write(tmp_path / "rows.jsonl", rows)
    options = [file, "--model", MODEL_DIR, "--states", tmp_path / "s.npz", "--layers", "5"]
    found = json.loads(analyse(*options, "--json"))["layers"]["5"]
    assert found["interval"][0] < 0.6 and found["accuracy"] < 0.7


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", tiny_rows(5, "test", 3))
    states = ["--states", tmp_path / "s.npz"]
    assert "config.json" in analyse(rows, "--model", tmp_path, *states, exit_code=2)
    assert "too few" in analyse(rows, "--model", MODEL_DIR, *states, exit_code=2)
    assert "0 (the embedding) to 5" in analyse(
        rows, "--model", MODEL_DIR, *states, "--layers", 9, exit_code=2
    )
