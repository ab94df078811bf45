"""Items, a server that replays them, and a configuration that points there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_multiverse.data_pipeline.teacher.cassette import Cassette, load_all

from .replay import CASSETTES, ReplayServer

#: What becomes of every cassette: requests that are paid, and the code of its rejection.
OUTCOMES: dict[str, tuple[int, str]] = {
    "changed-answer": (7, "new-number"),
    "clean": (5, ""),
    "cut-reply": (6, ""),
    "dropped-path": (6, ""),
    "fenced": (5, ""),
    "lost-sentence": (6, ""),
    "never-repaired": (7, "lost-content"),
    "no-parallelism": (2, "no-group"),
    "refused": (3, "refusal"),
    "repaired": (7, ""),
    "signs-in-math": (6, ""),
    "too-deep": (6, ""),
    "two-blocks": (6, ""),
    "wrong-numbers": (5, ""),
}

ACCEPTED = [name for name, (_, code) in OUTCOMES.items() if not code]
CALLS = sum(calls for calls, _ in OUTCOMES.values())


def expected(cassettes: list[Cassette]) -> dict[str, str]:
    """Codes by item, empty for what is accepted."""
    return {cassette.name: OUTCOMES[cassette.name][1] for cassette in cassettes}


def calls(cassettes: list[Cassette]) -> int:
    """Requests that are paid for ``cassettes``."""
    return sum(OUTCOMES[cassette.name][0] for cassette in cassettes)


@pytest.fixture(scope="session")
def cassettes() -> list[Cassette]:
    return load_all(CASSETTES)


@pytest.fixture(scope="session")
def light(cassettes: list[Cassette]) -> list[Cassette]:
    """The items whose answers are compared as they are spelled: for processes of their own, which
    would each have to load sympy for the other one."""
    return [cassette for cassette in cassettes if cassette.name != "changed-answer"]


@pytest.fixture
def server(cassettes: list[Cassette]) -> Iterator[ReplayServer]:
    """The replay server; a request it cannot match fails the test."""
    with ReplayServer(cassettes) as running:
        yield running
    assert running.unmatched == []


def write_rows(path: Path, cassettes: list[Cassette]) -> None:
    """The items as rows of s1K-1.1."""
    rows = [json.dumps({**c.record().columns, "deepseek_grade": "Yes"}) for c in cassettes]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture
def configure(tmp_path: Path, cassettes: list[Cassette]) -> Callable[..., Path]:
    """``configure(url, **fields)`` writes a configuration over all items, or over ``items``, and
    gives its path."""

    def make(url: str, *, items: list[Cassette] | None = None, **changes: Any) -> Path:
        rows = tmp_path / "chains.jsonl"
        write_rows(rows, cassettes if items is None else items)
        endpoint = {
            "base_url": url,
            "model": "teacher",
            "timeout": 3.0,
            "wait_initial": 0.01,
            "wait_max": 0.05,
            "concurrency": 4,
            **changes.pop("endpoint", {}),
        }
        value = {
            "source": {"files": [str(rows)]},
            "endpoint": endpoint,
            "sampling": {"max_tokens": 4000},
            "prices": {"input": 2.0, "output": 10.0},
            **changes,
        }
        path = tmp_path / "curate.yaml"
        path.write_text(yaml.safe_dump(value), encoding="utf-8")
        return path

    return make
