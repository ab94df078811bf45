"""What a run leaves behind: parquet, twin, mixture, card, report."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_multiverse.curriculum import STAGES
from sglang_multiverse.data_pipeline.aside import Aside
from sglang_multiverse.data_pipeline.corpus.export import (
    SOURCE_COLUMNS,
    ExportError,
    export_dataset,
)
from sglang_multiverse.data_pipeline.corpus.mixture import Example, mixture
from sglang_multiverse.data_pipeline.corpus.report import write_report
from sglang_multiverse.data_pipeline.pipeline import outcome_of
from sglang_multiverse.data_pipeline.recipe import Recipe
from sglang_multiverse.data_pipeline.record import Record, Rejection
from sglang_multiverse.data_pipeline.store.store import Filing, Opened, Outcome, Store
from sglang_multiverse.data_pipeline.teacher.budget import Amount
from sglang_multiverse.data_pipeline.teacher.call import Call, Message, Sampling
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette
from sglang_multiverse.dialect import MULTIVERSE
from sglang_multiverse.flatten import flatten_text
from sglang_multiverse.text import parse_text

from .conftest import ACCEPTED
from .driving import drive
from .synthetic import fill_store as fill_synthetic


def fill_store(path: Path, cassettes: list[Cassette]) -> None:
    """A store as a run leaves it, without server: stages driven from cassettes."""
    from sglang_multiverse.data_pipeline.teacher.call import Reply, Usage

    about = {
        "recipe": Recipe("teacher").row(),
        "base_url": "http://user:pw-SECRET@api.example.com/v1?key=pw-SECRET",
        "prices": {"currency": "EUR"},
        "card": {
            "name": "trial",
            "license": "apache-2.0",
            "source_license": None,
            "terms": "None.",
            "homepage": None,
        },
        "source": {
            "dataset": "someone/chains",
            "revision": "abc123",
            "split": "train",
            "files": [],
            "columns": {
                "question": "question",
                "chain": "deepseek_thinking_trajectory",
                "attempt": "deepseek_attempt",
                "answer": "solution",
            },
        },
        "skipped": {"no-answer": 2},
    }
    with Store(path) as store:
        records = [cassette.record() for cassette in cassettes]
        store.put_run("r", about, [(one.id, one.columns) for one in records])
        for cassette, record in zip(cassettes, records, strict=True):
            driven = drive(cassette)
            for call in driven.calls:
                assert store.open_call(call, Amount(100, 1.0)) is Opened.OURS
                store.close_call(call.key, Reply("…", usage=Usage(10, 20), cost=0.5))
            keys = [call.key for call in driven.calls]
            store.settle("r", outcome_of(record, driven.result, keys))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, light: list[Cassette]) -> Path:
    folder = tmp_path_factory.mktemp("export")
    fill_store(folder / "store.sqlite", light)
    with Store(folder / "store.sqlite") as store:
        export_dataset(store, folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def corpus(exported: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(exported / "data").to_pylist()


def test_the_published_columns_are_there(corpus: list[dict[str, Any]]) -> None:
    assert len(SOURCE_COLUMNS) == 13
    wanted = [
        *SOURCE_COLUMNS,
        "deepseek_thinking_trajectory_parallel",
        "deepseek_thinking_trajectory_sequential",
        "distance",
    ]
    assert list(corpus[0])[: len(wanted)] == wanted
    assert len(corpus) == len(ACCEPTED)


def test_every_row_holds_together(corpus: list[dict[str, Any]], cassettes: list[Cassette]) -> None:
    sources = {cassette.id: cassette for cassette in cassettes}
    for row in corpus:
        source = sources[row["id"]]
        assert row["question"] == source.question
        assert row["deepseek_thinking_trajectory"] == source.chain
        text = row["text"]
        assert parse_text(text).canonical
        assert text.startswith(row["deepseek_thinking_trajectory_parallel"])
        assert row["deepseek_thinking_trajectory_parallel"].endswith("\n</Think>")
        assert row["text_sequential"] == flatten_text(text)
        sequential = row["deepseek_thinking_trajectory_sequential"]
        assert not any(tag in sequential for tag in MULTIVERSE.tags)
        assert "in parallel" not in sequential
        assert sequential in row["text_sequential"]
        assert 0 <= row["distance"] <= 0.2
        assert row["calls"] >= 5 and row["cost"] == pytest.approx(0.5 * row["calls"])
        assert row["output_tokens"] == 20 * row["calls"]
        assert row["parallelism"] == pytest.approx(row["tokens"] / row["critical_path_tokens"])
        assert row["parallelism"] > 1 > row["net_parallelism"] > 0
        assert row["blocks"] >= 1 and row["depth"] >= 1
    repairs = {sources[row["id"]].name: row["repairs"] for row in corpus}
    assert repairs["repaired"] == 2 and repairs["clean"] == 0


def test_the_dataset_loads_by_its_card(exported: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    cache = str(tmp_path)
    corpus = load_dataset(str(exported), split="train", cache_dir=cache)
    assert len(corpus) == len(ACCEPTED)
    mixed = load_dataset(str(exported), "mixed", split="train", cache_dir=cache)
    assert len(mixed) == 8 * len(ACCEPTED)
    row = mixed[0]
    assert row["prompt"][0]["role"] == "user"
    assert row["completion"][0]["role"] == "assistant"


def test_the_card_says_what_must_be_said(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "apache-2.0"
    assert front["source_datasets"] == ["someone/chains"]
    assert front["size_categories"] == "n<1K"
    corpus, mixed = front["dataset_info"]
    assert corpus["splits"][0]["num_examples"] == len(ACCEPTED)
    assert mixed["splits"][0]["num_examples"] == 8 * len(ACCEPTED)
    assert {"name": "parallelism", "dtype": "float64"} in corpus["features"]
    for part in ("revision `abc123`", "`teacher`", "Terms of the generator: None.", "net_parallel"):
        assert part in card
    for figure in ("parallelism", "net_parallelism", "blocks", "distance"):
        assert (exported / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(figures/{figure}.png)" in card


def test_the_card_counts_what_is_left_out(tmp_path: Path, cassettes: list[Cassette]) -> None:
    fill_store(tmp_path / "s", [one for one in cassettes if one.name in ("clean", "repaired")])
    with Store(tmp_path / "s") as store:
        id = store.run()["run"]
        (first, _) = store.outcomes(id).values()
        store.settle(id, replace(first, status="error", result={"message": "", "findings": []}))
        export_dataset(store, tmp_path / "out", plots=False, curriculum=False)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Of 1 items 1 (100.0%) passed" in card
    assert "1 more are left out: 1 failed, 0 were not reached." in card
    for what in ("hash of question and chain", "`source_columns`", "net parallelism counts no"):
        assert what in card


def test_the_report_counts(exported: Path) -> None:
    report = json.loads((exported / "report" / "report.json").read_text())
    assert (report["accepted"], report["rejected"]) == (len(ACCEPTED), 3)
    assert report["yield"] == pytest.approx(len(ACCEPTED) / (len(ACCEPTED) + 3))
    rejections = {(one["stage"], one["code"]): one["items"] for one in report["rejections"]}
    assert rejections == {
        ("outline", "no-group"): 1,
        ("outline", "refusal"): 1,
        ("rewrite", "lost-content"): 1,
    }
    calls = sum(use["calls"] for use in report["stages"].values())
    assert report["cost"] == pytest.approx(0.5 * calls)
    text = (exported / "report" / "report.md").read_text()
    assert "| rewrite | `lost-content` | 1 |" in text
    assert "| no-answer | 2 |" in text


def test_no_more_than_the_public_host_of_the_endpoint_leaves(exported: Path) -> None:
    """The store is of a release that kept the whole address."""
    assert "`teacher` at api.example.com, sampling" in (exported / "README.md").read_text()
    for path in (exported / "README.md", *(exported / "report").iterdir()):
        assert "SECRET" not in path.read_text() and "example.com/v1" not in path.read_text()


def a_call() -> Call:
    return Call("i", "fill", "1", "fill", "h", "m", Sampling(), (Message("user", "?"),))


def test_messages_in_a_report_name_no_local_address(
    tmp_path: Path, cassettes: list[Cassette]
) -> None:
    clean = next(one for one in cassettes if one.name == "clean")
    fill_store(tmp_path / "s", [clean])
    said = "http://u:pw-SECRET@10.0.0.3:8000/v1 (model m): HTTP 500 of https://api.example.com/v1"
    with Store(tmp_path / "s") as store:
        store.settle("r", Outcome(clean.id, "error", "transport", "transport", {"message": said}))
        assert store.fill_batch("b", "http://10.0.0.3:8000/v1", [Filing(a_call(), Amount(1, 0.0))])
        write_report(store, tmp_path / "out")
    text = (tmp_path / "out" / "report.json").read_text()
    assert "(local address) (model m): HTTP 500 of api.example.com" in text
    assert "10.0.0.3" not in text and json.loads(text)["store"]["open_batches"]
    assert "10.0.0.3" not in (tmp_path / "out" / "report.md").read_text()


def test_nothing_is_overwritten(exported: Path) -> None:
    with (
        Store(exported.parent / "store.sqlite") as store,
        pytest.raises(ExportError, match="not empty"),
    ):
        export_dataset(store, exported)


def test_a_run_without_accepted_items_exports_nothing(
    tmp_path: Path, cassettes: list[Cassette]
) -> None:
    fill_store(tmp_path / "s", [one for one in cassettes if one.name == "refused"])
    with Store(tmp_path / "s") as store, pytest.raises(ExportError, match="no accepted item"):
        export_dataset(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tokens_can_be_a_models_own(
    tmp_path: Path, cassettes: list[Cassette], repository: Path
) -> None:
    import pyarrow.parquet as pq

    tiny = repository / "sglang_multiverse" / "tiny" / "model"
    fill_store(tmp_path / "s", [one for one in cassettes if one.name == "clean"])
    with Store(tmp_path / "s") as store:
        export_dataset(store, tmp_path / "out", tokenizer=tiny, plots=False, curriculum=False)
        with pytest.raises(ExportError, match=r"tokenizer\.json"):
            export_dataset(store, tmp_path / "other", tokenizer=tmp_path)
    (row,) = pq.read_table(tmp_path / "out" / "data").to_pylist()
    assert row["parallelism"] > 1
    assert "tokens of the tokenizer `model`" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "mixed").exists()


GROWTH = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from sglang_multiverse.data_pipeline.corpus import shards
from sglang_multiverse.data_pipeline.corpus.export import export_dataset
from sglang_multiverse.data_pipeline.store.store import Store
shards.write_shards.__kwdefaults__.update(group=1 << 20, shard=32 << 20)
for name in ("few", "many"):
    with Store(Path({folder!r}) / name) as store:
        export_dataset(store, Path({folder!r}) / f"{{name}}.out")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_number_of_items(
    tmp_path: Path, cassettes: list[Cassette], repository: Path
) -> None:
    """Ten times the items, of 64 KiB each; ``python benchmarks/curation.py --export 20000`` takes
    more and larger ones."""
    import pyarrow.parquet as pq

    clean = drive(next(one for one in cassettes if one.name == "clean")).result
    assert isinstance(clean, Record)
    few, many = 200, 2000
    for name, count in (("few", few), ("many", many)):
        fill_synthetic(tmp_path / name, count, made=[clean], padding=1 << 16)
    code = GROWTH.format(tests=str(repository), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    small, large = map(float, done.stdout.split())
    assert large - small < (many - few) * 64 / 1024 / 3, "MiB"
    shards = sorted((tmp_path / "many.out" / "data").iterdir())
    assert len(shards) > 3
    assert shards[-1].name == f"train-{len(shards) - 1:05}-of-{len(shards):05}.parquet"
    ids = [id for shard in shards for id in pq.read_table(shard, columns=["id"])["id"].to_pylist()]
    assert ids == [f"{number:016x}" for number in range(many)]
    mixed = pq.read_table(tmp_path / "many.out" / "mixed", columns=["stage"])["stage"].to_pylist()
    assert mixed == sorted(mixed) and len(mixed) == 8 * many


def test_exports_of_any_runs_are_shards_of_one_dataset(
    exported: Path, tmp_path: Path, cassettes: list[Cassette]
) -> None:
    """One of a source without an answer, an attempt, other columns or notes; another with."""
    from datasets import load_dataset

    clean = drive(next(one for one in cassettes if one.name == "clean")).result
    assert isinstance(clean, Record)
    bare = replace(
        clean,
        columns={
            "question": "Half a pair: \ud83d?",
            "deepseek_thinking_trajectory": clean.source,
            "metadata": {"level": 3, "tags": []},
            "id": "mine-1",
            "text": "α",
            "run": 7,
        },
        notes=(),
    )
    fill_synthetic(tmp_path / "s", 2, made=[bare])
    with Store(tmp_path / "s") as store:
        export_dataset(store, tmp_path / "out", plots=False)
    for kind in ("data", "mixed"):
        files = [
            str(file) for out in (tmp_path / "out", exported) for file in (out / kind).iterdir()
        ]
        together = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
        assert len(together) == (2 + len(ACCEPTED)) * (8 if kind == "mixed" else 1)
    row = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path))[0]
    assert (row["solution"], row["gates"]) == (None, [])
    assert json.loads(row["metadata"]) == {"level": 3, "tags": []}
    assert json.loads(row["source_columns"]) == {"id": "mine-1", "text": "α", "run": 7}
    assert row["id"] != "mine-1" and row["text"].startswith("<Think>")


def test_an_export_that_fails_leaves_nothing_behind(
    tmp_path: Path, cassettes: list[Cassette], monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = drive(next(one for one in cassettes if one.name == "clean")).result
    assert isinstance(clean, Record)
    fill_synthetic(tmp_path / "s", 3, made=[clean])

    def full(*arguments: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr("sglang_multiverse.data_pipeline.corpus.report.write_report", full)
    with Store(tmp_path / "s") as store, pytest.raises(OSError, match="no room"):
        export_dataset(store, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_put_aside_comes_back() -> None:
    put = [Example("i", "Q \ud83d?", "P\n" * 1000, ""), Example("", "ünïcode", "\0", "S")]
    with Aside[Example](folder=Path(tempfile.gettempdir()), in_memory=1) as spool:
        for one in put:
            spool.append(one)
        assert [spool[1], spool[0], *spool[:]] == [put[1], *put[:1], *put]


def examples(count: int) -> list[Example]:
    return [Example(f"i{n}", f"Q{n}?", f"P{n}", f"S{n}") for n in range(count)]


@pytest.mark.parametrize("count", [1, 2, 7, 10, 333])
def test_every_item_comes_four_times_in_each_form(count: int) -> None:
    rows = list(mixture(examples(count)))
    assert len(rows) == 8 * count
    assert set(Counter((row["id"], row["parallel"]) for row in rows).values()) == {4}
    for stage, share in enumerate(STAGES):
        inside = [row for row in rows if row["stage"] == stage]
        assert len({row["id"] for row in inside}) == count
        assert abs(sum(row["parallel"] for row in inside) - share * count) <= 0.5 + 1e-9
    assert [row["stage"] for row in rows] == sorted(row["stage"] for row in rows)


def test_prompt_and_form_belong_together() -> None:
    for row in mixture(examples(10)):
        (user,), (assistant,) = row["prompt"], row["completion"]
        if row["parallel"]:
            ending, text = " Think step by step and in parallel before answering.", "P"
        else:
            ending, text = " Think step by step before answering.", "S"
        number = row["id"][1:]
        assert user["content"] == f"Q{number}?{ending}"
        assert assistant["content"] == f"{text}{number}"


def test_the_order_is_fixed_by_the_seed() -> None:
    assert list(mixture(examples(20))) == list(mixture(examples(20)))
    assert list(mixture(examples(20))) != list(mixture(examples(20), seed=1))


def test_a_rejection_keeps_its_findings(cassettes: list[Cassette]) -> None:
    cassette = next(one for one in cassettes if one.name == "never-repaired")
    driven = drive(cassette)
    assert isinstance(driven.result, Rejection)
    outcome = outcome_of(cassette.record(), driven.result)
    assert outcome.result is not None
    (finding,) = outcome.result["findings"]
    assert finding["code"] == "lost-content" and finding["span"]
