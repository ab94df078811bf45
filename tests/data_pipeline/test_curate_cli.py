"""``multiverse curate``, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.cli.curation import with_store
from sglang_multiverse.data_pipeline.store.store import Store
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette

from .conftest import OUTCOMES, expected
from .replay import ReplayServer

Configure = Callable[..., Path]


def curate(*arguments: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["curate", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result.output


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def test_a_reader_that_stops_early_is_no_error(store: Path) -> None:
    """Of ``show --messages``, say: the pipe is no fault of the store."""
    Store(store).close()

    def use(opened: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        with_store(store, use)


def test_from_a_file_to_a_dataset(
    light: list[Cassette], configure: Configure, store: Path, tmp_path: Path
) -> None:
    accepted = sum(not code for code in expected(light).values())
    with ReplayServer(light) as server:
        config = configure(server.url, items=light)
        dry = curate("run", config, "--store", store, "--dry-run")
        assert f"to do: {len(light)} items" in dry and "USD" in dry
        assert server.requests == [] and not store.exists()
        said = curate("run", config, "--store", store)
        assert f"{accepted} accepted, {len(light) - accepted} rejected, 0 failed" in said
        sent = len(server.requests)
        assert f"{accepted} accepted" in curate("run", config, "--store", store)
        assert "to do: 0 items" in curate("run", config, "--store", store, "--dry-run")
        assert len(server.requests) == sent

    status = json.loads(curate("status", "--store", store, "--json"))
    assert (status["accepted"], status["pending"]) == (accepted, 0)
    said = curate("status", "--store", store)
    assert "outline: no-group" in said and "never answered" in said

    curate("report", tmp_path / "report", "--store", store)
    assert json.loads((tmp_path / "report" / "report.json").read_text())["accepted"] == accepted

    curate("export", tmp_path / "out", "--store", store, "--no-plots")
    corpus = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    checked = curate("check", corpus, "--json").splitlines()
    assert len(checked) == accepted
    assert all(json.loads(line)["accepted"] for line in checked), "what is exported passes"
    assert "not empty" in curate("export", tmp_path / "out", "--store", store, exit_code=2)

    clean = next(cassette for cassette in light if cassette.name == "repaired")
    said = curate("show", clean.id[:8], "--store", store)
    for part in (clean.question, "frame, attempt 2: done", "outcome: accepted", "<Parallel>"):
        assert part in said
    said = curate("show", clean.id, "--store", store, "--messages")
    assert "transitional-opening" in said and "--- assistant" in said
    lost = next(cassette for cassette in light if cassette.name == "never-repaired")
    assert "content/lost-content" in curate("show", lost.id, "--store", store)
    assert "none" in curate("show", "zzz", "--store", store, exit_code=2)


def test_options_go_before_the_file(
    cassettes: list[Cassette], configure: Configure, store: Path, tmp_path: Path
) -> None:
    clean = [cassette for cassette in cassettes if cassette.name == "clean"]
    with ReplayServer(clean) as server:
        config = configure("http://127.0.0.1:9/v1", items=clean)
        rows = tmp_path / "chains.jsonl"
        said = curate(
            "run", config, "--store", store, "--base-url", server.url, "--file", rows, "--limit", 1
        )
        assert "1 accepted" in said
        assert len(server.requests) == 5


def test_a_budget_that_is_too_small_is_said(
    light: list[Cassette], configure: Configure, store: Path
) -> None:
    with ReplayServer(light) as server:
        config = configure(server.url, items=light)
        said = curate("run", config, "--store", store, "--budget-tokens", 9000, exit_code=1)
    assert "ended early" in said and "Raise `budget`" in said


@pytest.mark.parametrize("name", ["status", "report", "export", "show"])
def test_without_a_store_there_is_nothing_to_say(name: str, tmp_path: Path) -> None:
    more = {"export": [tmp_path / "out"], "show": ["abc"]}.get(name, [])
    said = curate(name, *more, "--store", tmp_path / "none.sqlite", exit_code=2)
    assert "no store" in said and "curate run" in said
    assert not (tmp_path / "none.sqlite").exists()


def test_what_is_wrong_is_said_before_anything_is_sent(
    configure: Configure, store: Path, tmp_path: Path
) -> None:
    assert "neither a file nor one of s1k" in curate("run", "nothing", exit_code=2)
    assert "commit" in curate("run", "s1k", "--store", store, exit_code=2)
    config = configure("http://127.0.0.1:9/v1")
    missing = curate("run", config, "--file", tmp_path / "none.jsonl", exit_code=2)
    assert "No such file" in missing
    store.write_text("no database at all, this")
    assert "is not a curation store" in curate("run", config, "--store", store, exit_code=2)


def test_every_cassette_has_its_outcome(cassettes: list[Cassette]) -> None:
    assert sorted(OUTCOMES) == [cassette.name for cassette in cassettes]
