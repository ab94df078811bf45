"""``multiverse curate``, as it is typed."""

from __future__ import annotations

import errno
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.cli.curation import with_store
from sglang_multiverse.data_pipeline.corpus.summary import alike
from sglang_multiverse.data_pipeline.store.store import Store
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette

from .conftest import OUTCOMES, expected
from .replay import ReplayServer
from .synthetic import fill_store

Configure = Callable[..., Path]


def curate(*arguments: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["curate", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result.output


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def clean(cassettes: list[Cassette]) -> list[Cassette]:
    return [cassette for cassette in cassettes if cassette.name == "clean"]


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
    assert "curate show --status rejected" in said

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

    listed = curate("show", "--store", store).splitlines()
    assert [line.split()[0] for line in listed] == [one.id for one in light]
    assert clean.question[:40] in next(line for line in listed if line.startswith(clean.id))
    codes = expected(light)
    rejected = curate("show", "--store", store, "--status", "rejected").splitlines()
    assert len(rejected) == sum(map(bool, codes.values()))
    (one,) = curate("show", "--store", store, "--code", "lost-content").splitlines()
    assert one.split()[:4] == [lost.id, "rejected", "rewrite:", "lost-content"]
    assert "no item" in curate("show", "--store", store, "--status", "failed")
    assert "--code" in curate("show", lost.id, "--code", "x", "--store", store, exit_code=2)

    (run,) = curate("runs", "--store", store).splitlines()
    name = run.split()[0]
    assert f"{len(light)} items" in run and run.endswith("teacher")
    assert name in curate("status", "--store", store, "--run", name[:5])
    assert name in curate("status", "--store", store, "--run", "zzz", exit_code=2), "what there is"


def test_chains_in_tags_are_told_in_the_dry_run(
    light: list[Cassette], configure: Configure, store: Path, tmp_path: Path
) -> None:
    config = configure("http://127.0.0.1:9/v1", items=light)
    rows = [one.record().columns for one in light[:3]]
    for row in rows[:2]:
        chain = row["deepseek_thinking_trajectory"]
        row["deepseek_thinking_trajectory"] = f"<think>\n{chain}\n</think>"
    rows[2]["deepseek_thinking_trajectory"] += "\n<think>\n"
    file = tmp_path / "tagged.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    dry = curate("run", config, "--store", store, "--file", file, "--dry-run")
    assert "2 items; 1 rows left out (think-tag ×1); 2 chains in <think> tags, taken off" in dry


def test_the_dry_run_says_what_its_figures_count(
    light: list[Cassette], configure: Configure, store: Path
) -> None:
    config = configure("http://127.0.0.1:9/v1", items=light, right_answers=True)
    dry = curate("run", config, "--store", store, "--dry-run")
    assert (
        "given 3 times and every reply cut at its limit, of 4,000, then up to 8,000 tokens" in dry
    )
    assert "items that `right_answers` rejects cost no call" in dry
    config = configure("http://127.0.0.1:9/v1", items=light, room=0)
    dry = curate("run", config, "--store", store, "--dry-run")
    assert "of 4,000 tokens" in dry and "right_answers" not in dry


def test_messages_that_say_the_same_are_one() -> None:
    head = "http://h/v1 (model m): HTTP 400 after 1 request: Error code: 400 - {'error': "
    asked = [f"{head}{{'message': \"none of question 'Is {n} odd?'\"}}}}" for n in range(7)]
    other = f"{head}{{'message': 'the prompt is too long'}}}}"
    busy = asked[0].replace("400", "429")
    found = alike({**dict.fromkeys(asked, 2), other: 3, busy: 1})
    assert found == [(f"{asked[0]} (and 6 like it)", 14), (other, 3), (busy, 1)]


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
    (tmp_path / "fill.md").write_text("---\nname: fill\nversion: 2\n---\nHi {{nothing}}")
    own = configure("http://127.0.0.1:9/v1", prompts=str(tmp_path))
    said = curate("run", own, "--store", store, "--dry-run", exit_code=2)
    assert "fill.md has {{nothing}}, its stage fills {{outline}}" in said
    config = configure("http://127.0.0.1:9/v1")
    store.write_text("no database at all, this")
    assert "is not a curation store" in curate("run", config, "--store", store, exit_code=2)


def test_a_file_that_is_no_store_is_left_as_it_is(configure: Configure, tmp_path: Path) -> None:
    config, other, empty = configure("http://127.0.0.1:9/v1"), tmp_path / "db", tmp_path / "empty"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE foo (a)")
    empty.touch()
    before = other.read_bytes()
    for command in (["status"], ["show", "abc"], ["report", tmp_path / "r"], ["export", "out"]):
        assert "of another kind" in curate(*command, "--store", other, exit_code=2)
        assert "holds no store" in curate(*command, "--store", empty, exit_code=2)
    assert "of another kind" in curate("run", config, "--store", other, "--dry-run", exit_code=2)
    assert "to do: 14" in curate("run", config, "--store", empty, "--dry-run")
    assert other.read_bytes() == before and empty.read_bytes() == b""


def test_a_place_for_cassettes_is_looked_at_before_anything_is_paid(
    clean: list[Cassette], configure: Configure, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with ReplayServer(clean) as server:
        config = configure(server.url, items=clean)
        for place in (tmp_path / "file", tmp_path / "file" / "tapes"):
            for more in ([], ["--dry-run"]):
                said = curate(
                    "run", config, "--store", store, "--record", place, *more, exit_code=2
                )
                assert f"{tmp_path / 'file'} is a file; name a folder" in said
        assert server.requests == [] and not store.exists()
        curate("run", config, "--store", store, "--record", tmp_path / "new" / "tapes")
    assert len(list((tmp_path / "new" / "tapes").iterdir())) == 1


def test_cassettes_that_cannot_be_written_are_one_line(
    clean: list[Cassette],
    configure: Configure,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cassette = "sglang_multiverse.data_pipeline.teacher.cassette.record_cassettes"
    monkeypatch.setattr(cassette, full)
    with ReplayServer(clean) as server:
        config = configure(server.url, items=clean)
        said = curate("run", config, "--store", store, "--record", tmp_path / "t", exit_code=2)
    assert "No space left on device. The replies are in the store" in said


def test_what_costs_nothing_is_not_told_in_money(
    clean: list[Cassette], configure: Configure, store: Path, tmp_path: Path
) -> None:
    neither = "neither `prices` nor `budget` is set"
    with ReplayServer(clean) as server:
        config = configure(server.url, items=clean, prices={})
        assert neither in curate("run", config, "--store", store)
        limited = curate("run", config, "--store", store, "--budget-tokens", 10**7)
        assert neither not in limited
        assert "USD" not in curate(
            *("run", config, "--store", tmp_path / "s", "--budget-tokens", 900), exit_code=1
        )
        assert "USD" not in curate("status", "--store", store)
        curate("export", tmp_path / "out", "--store", store, "--no-plots")
        for page in ("README.md", "report/report.md"):
            text = (tmp_path / "out" / page).read_text()
            assert "USD" not in text and "| cost |" not in text
        priced = configure(server.url, items=clean)
        assert neither not in curate("run", priced, "--store", tmp_path / "priced")
        assert " USD" in curate("status", "--store", tmp_path / "priced")


def test_an_export_says_how_its_card_gets_a_license(
    clean: list[Cassette], configure: Configure, store: Path, tmp_path: Path
) -> None:
    """And doing what it says gives it one, without a call."""
    with ReplayServer(clean) as server:
        curate("run", configure(server.url, items=clean), "--store", store)
        sent = len(server.requests)
        said = curate("export", tmp_path / "a", "--store", store, "--no-plots")
        assert "write `card.license` into the configuration, give the command of the run" in said
        licensed = configure(server.url, items=clean, card={"license": "mit"})
        curate("run", licensed, "--store", store)
        assert len(server.requests) == sent
    said = curate("export", tmp_path / "b", "--store", store, "--no-plots")
    assert "license" not in said and "license: mit" in (tmp_path / "b" / "README.md").read_text()


def test_a_place_that_cannot_be_written_is_named(
    clean: list[Cassette],
    configure: Configure,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ReplayServer(clean) as server:
        curate("run", configure(server.url, items=clean), "--store", store)
    (tmp_path / "file").touch()
    for command in ("export", "report"):
        said = curate(command, tmp_path / "file", "--store", store, exit_code=2)
        assert f"{tmp_path / 'file'} cannot be written: it is a file; name a folder" in said

    def full(*arguments: object, **more: object) -> None:
        raise OSError(errno.EFBIG, "Error writing bytes to file. Detail: [errno 27] File too large")

    monkeypatch.setattr("sglang_multiverse.data_pipeline.corpus.export.write_shards", full)
    said = curate("export", tmp_path / "out", "--store", store, exit_code=2)
    assert f"{tmp_path / 'out'} cannot be written: File too large; make room" in said


@pytest.mark.parametrize("name", ["run", "status"])
def test_standard_output_that_takes_no_more_is_one_line(
    configure: Configure, store: Path, name: str
) -> None:
    program = [sys.executable, "-m", "sglang_multiverse.cli", "curate", name]
    config = configure("http://127.0.0.1:9/v1")
    if name == "status":
        fill_store(store, 1)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*program, *([str(config)] if name == "run" else []), "--store", str(store)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output cannot be written: No space left")
    assert done.stderr.count("\n") == 1


def test_every_cassette_has_its_outcome(cassettes: list[Cassette]) -> None:
    assert sorted(OUTCOMES) == [cassette.name for cassette in cassettes]
