"""Both attacks, short, through the command line, on servers that other tests use too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app

from .client import Client

pytestmark = pytest.mark.weights("tiny")


def attack(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code in (0, 1), done.output
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == bool(report["found"]), done.output
    return report


@pytest.mark.parametrize(
    "every",
    ["overlap", *(pytest.param(one, marks=pytest.mark.nightly) for one in ("tight", "segmented"))],
    indirect=True,
)
def test_fuzz_finds_nothing(every: Client) -> None:
    requests = forks = 0
    # A busy machine may spend all the time of one run compiling a kernel of SGLang's, and then
    # every request of it is cut before it forks.
    for seed in (5, 6, 7):
        report = attack("fuzz", "--minutes", "0.3", "--seed", str(seed), "--url", every.server.url)
        print(f"\nfuzz: {report['requests']} requests, {report['rounds']} rounds")
        assert report["found"] == []
        requests += report["requests"]
        forks += report["forks"]
        if forks:
            break
    assert requests > 20
    assert forks > 0
    every.assert_sound()


@pytest.mark.nightly
def test_soak_loses_nothing(tight: Client) -> None:
    report = attack(
        *("soak", "--requests", "128", "--concurrency", "64", "--distinct", "12"),
        *("--url", tight.server.url),
    )
    print(f"\nsoak: {report}")
    assert [report[key] for key in ("lost", "wrong", "leaked_tokens")] == [0, 0, 0]
    assert report["forks"] > 50
    assert report["retractions"] > 0
    assert report["aborted"] > 0
    tight.assert_sound()
