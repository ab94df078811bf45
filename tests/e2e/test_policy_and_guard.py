"""Policies of branching and the tag guard on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.engine.options import EngineOptions
from sglang_multiverse.layout import layout
from sglang_multiverse.sequencer import UNLIMITED
from sglang_multiverse.structure import parse

from .client import Client
from .governed import Governed, Preferred, Wild
from .test_fidelity import TOLERANCE, gap
from .texts import Texts

pytestmark = pytest.mark.weights("random")

POLICIES = ["cap:1", "load:4"]
#: Codes that speak of the words between tags, which the guard leaves to the model.
OF_WORDS = {"goal_gap", "outline_gap", "outline_label", "path_label", "conclusion_gap"}


def governed(client: Client, texts: Texts, seed: int, policy: str, **custom: Any) -> Any:
    """Write random text ``seed`` on a server that runs under ``policy``."""
    script, prompt_len = texts.make(seed, depth=2)
    params = {"script": script, "eos": texts.eos, "policy": policy, **custom}
    return client.generate(
        script[:prompt_len], custom_logit_processor=Governed.to_str(), custom_params=params
    )


@pytest.fixture
def eager_again(server: Client, texts: Texts) -> Iterator[None]:
    """Leave the shared server as it was."""
    yield
    governed(server, texts, 3, "eager")


@pytest.mark.usefixtures("eager_again")
def test_the_text_does_not_depend_on_the_policy(server: Client, texts: Texts) -> None:
    seeds = range(300, 308)

    def run(policy: str) -> list[Any]:
        return server.at_once((lambda s=s: governed(server, texts, s, policy)) for s in seeds)

    expected = run("eager")
    steps = {"eager": sum(a["meta_info"]["multiverse_forward_steps"] for a in expected)}
    for policy in POLICIES:
        answers = run(policy)
        assert [a["output_ids"] for a in answers] == [a["output_ids"] for a in expected]
        assert [a["text"] for a in answers] == [a["text"] for a in expected]
        steps[policy] = sum(a["meta_info"]["multiverse_forward_steps"] for a in answers)
    print(f"\nforward steps: {steps}")
    # One path at a time takes more steps, so the policies did hold paths back.
    assert steps["cap:1"] > steps["eager"]
    assert steps["load:4"] > steps["eager"]
    server.assert_sound()


@pytest.mark.usefixtures("eager_again")
@pytest.mark.parametrize("policy", ["cap:2", "load:5"])
def test_fidelity_under_a_policy(
    server: Client, texts: Texts, dialect: Dialect, random_model: Any, tmp_path: Path, policy: str
) -> None:
    seeds = range(320, 328)

    def write(seed: int) -> list[int]:
        script, prompt_len = texts.make(seed, depth=2)
        answer = governed(server, texts, seed, policy, record=str(tmp_path / str(seed)))
        assert answer["output_ids"] == [*script[prompt_len:], texts.eos]
        return [*script, texts.eos]

    written = server.at_once((lambda s=s: write(s)) for s in seeds)
    worst, rows = 0.0, 0
    for seed, ids in zip(seeds, written, strict=True):
        laid = layout(ids, dialect)
        difference, count = gap(random_model, ids, laid, dialect, tmp_path / str(seed), UNLIMITED)
        worst, rows = max(worst, difference), rows + count
    print(f"\n{policy}: {rows} rows, max |Δ logprob| {worst:.2e}")
    assert rows > 300
    assert worst <= TOLERANCE


def wild(client: Client, texts: Texts, seed: int, guard: bool, limit: int = 500) -> Any:
    params = {
        "wild": seed,
        "words": texts.words[:4],
        "tags": list(texts.dialect.tag_ids),
        "eos": texts.eos,
        "multiverse": {"tag_guard": guard, "max_branches": 3, "max_depth": 2},
    }
    return client.generate(
        texts.words[seed : seed + 5],
        custom_logit_processor=Wild.to_str(),
        custom_params=params,
        max_new_tokens=limit,
    )


def test_under_the_guard_a_model_without_manners_writes_whole_blocks(
    server: Client, texts: Texts, dialect: Dialect
) -> None:
    limits = EngineOptions(max_branches=3, max_depth=2).limits
    # Guarded and not at the same time, so that rows of both kinds share batches and are reused.
    calls = [(seed, guard) for seed in range(24) for guard in (True, False)]
    answers = server.at_once((lambda s=s, g=g: wild(server, texts, s, g)) for s, g in calls)
    forks, whole, broken = 0, 0, 0
    for (_, guard), answer in zip(calls, answers, strict=True):
        ids, meta = answer["output_ids"], answer["meta_info"]
        codes = {issue.code for issue in parse(ids, dialect, limits=limits).issues} - OF_WORDS
        if not guard:
            broken += bool(codes)
            continue
        forks += meta["multiverse_forks"]
        if meta["finish_reason"]["type"] == "stop":
            whole += 1
            assert not codes, (codes, ids)
        else:
            assert codes <= {"unclosed", "unclosed_think", "path_count"}, (codes, ids)
    print(f"\n{forks} forks, {whole} whole answers under the guard; {broken} of 24 broken without")
    assert forks >= 10
    assert whole >= 10
    assert broken >= 15
    server.assert_sound()


def test_overlap_does_not_change_what_the_guard_does(
    overlap: Client, tight: Client, texts: Texts
) -> None:
    for seed in range(30, 36):
        assert (
            wild(overlap, texts, seed, True)["output_ids"]
            == wild(tight, texts, seed, True)["output_ids"]
        )


def preferred(client: Client, texts: Texts, script: list[int], prompt_len: int) -> list[int]:
    """What a guarded row writes that would rather write ``script``, and can write words."""
    params = {
        "script": script,
        "eos": texts.eos,
        "words": texts.words[:4],
        "multiverse": {"tag_guard": True},
    }
    answer = client.generate(
        script[:prompt_len],
        custom_logit_processor=Preferred.to_str(),
        custom_params=params,
        max_new_tokens=len(script) + 20,
    )
    ids: list[int] = answer["output_ids"]
    return ids


def test_what_is_canonical_passes_unmasked(server: Client, texts: Texts) -> None:
    for seed in (3, 5, 9):
        script, prompt_len = texts.make(seed)
        written = preferred(server, texts, script, prompt_len)
        assert written == [*script[prompt_len:], texts.eos]


def test_what_is_not_gives_way(overlap: Client, texts: Texts, dialect: Dialect) -> None:
    """The same processor on a stray </Path>: a word stands in its place."""
    script = [*texts.words[:3], texts.words[5], dialect[Tag.END_PATH], texts.words[6]]
    written = preferred(overlap, texts, script, 3)
    assert written[0] == texts.words[5]
    assert written[1] in texts.words[:4]
    assert written[2] == texts.words[6]


def test_a_forbidden_tag_that_is_all_there_is_ends_nothing(
    overlap: Client, texts: Texts, dialect: Dialect
) -> None:
    """A processor that leaves one forbidden tag: it is sampled, and the server lives."""
    script = [*texts.words[:3], *3 * [dialect[Tag.END_PATH], texts.words[0]]]
    params = {"script": script, "eos": texts.eos, "multiverse": {"tag_guard": True}}
    answer = overlap.force(script[:3], params, temperature=0.7)
    assert answer["output_ids"] == [*script[3:], texts.eos]
    overlap.assert_sound()
