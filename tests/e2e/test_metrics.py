"""What an operator sees of a server: metrics, ``/server_info``, loads, the line per request."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sglang_multiverse import __version__
from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.server import Server, ServerError
from sglang_multiverse.tiny import MODEL_DIR

from .client import Client
from .conftest import CHECKS, FLAGS
from .texts import Texts

pytestmark = pytest.mark.weights("tiny")

PREFIX = "sglang:multiverse_"
#: Tags of a raw prompt are structure.
ANYWHERE = {"multiverse": {"structure": "all"}}


@pytest.fixture(scope="module")
def metered() -> Iterator[Client]:
    """Metrics on, gauges set at every step."""
    flags = ["--enable-metrics", "--max-total-tokens", "6000", "--decode-log-interval", "1"]
    with Server(MODEL_DIR, flags=[*FLAGS, *flags], env=CHECKS) as server:
        client = Client(server)
        yield client
        client.assert_sound()


def scrape(client: Client) -> dict[str, float]:
    """Sample name, and its own label's value where it has one → value, summed over ranks."""
    found: Counter[str] = Counter()
    text = client.server.request("/metrics/", raw=True)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("sglang:"):
                label = next((sample.labels[key] for key in _OWN if key in sample.labels), None)
                name = sample.name.removeprefix(PREFIX)
                found[f"{name} {label}" if label else name] += sample.value
    return found


_OWN = ("kind", "finish_reason", "cause")


def since(client: Client, before: dict[str, float]) -> dict[str, float]:
    """What has been added to every counter and histogram, once nothing runs any more."""
    client.used_tokens()
    now = scrape(client)
    return {name: value - before.get(name, 0) for name, value in now.items()}


def told(client: Client) -> dict[str, Any]:
    (state,) = client.server.request("/server_info")["internal_states"]
    plugin: dict[str, Any] = state["multiverse"]
    return plugin


def lines(client: Client) -> dict[str, dict[str, str]]:
    """The log's line per forked request, by request id."""
    found = {}
    for entry in re.findall(r"Multiverse request: (.*)", client.server.log()):
        fields = dict(pair.split("=", 1) for pair in entry.split(", "))
        assert fields["rid"] not in found
        found[fields["rid"]] = fields
    return found


def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true answer of ``what``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = what()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError("did not happen in time")


def force(client: Client, script: list[int], prompt_len: int, eos: int, **body: Any) -> Any:
    return client.force(script[:prompt_len], {"script": script, "eos": eos}, **body)


def two_paths(dialect: Dialect, texts: Texts, words: int) -> tuple[list[int], int]:
    """A prompt of one word and one block with two paths of ``words``."""
    text = [texts.words[i % len(texts.words)] for i in range(words)]
    separator = list(dialect.separator)
    labels = [dialect.ordinal(0), dialect.ordinal(1)]
    body: list[int] = []
    for tag in (Tag.PARALLEL, Tag.GOAL):
        body += [dialect[tag], *separator]
    for label in labels:
        body += [dialect[Tag.OUTLINE], *separator, *label, dialect.colon, text[2], *separator]
        body += [dialect[Tag.END_OUTLINE], *separator]
    body += [dialect[Tag.END_GOAL], *dialect.goal_tail]
    for label in labels:
        body += [*dialect.path_seed(label), *text, dialect[Tag.END_PATH], *dialect.path_tail]
    body += [*dialect.conclusion_seed, text[3], dialect[Tag.END_CONCLUSION], *separator]
    return [text[0], *body, dialect[Tag.END_PARALLEL]], 1


def test_what_is_scraped_adds_up_to_the_answers(metered: Client, texts: Texts) -> None:
    before = scrape(metered)
    made = [texts.make(seed, depth=2, blocks=1 + seed % 2) for seed in range(20, 32)]
    answers = metered.at_once(
        (lambda m=m: force(metered, *m, texts.eos) for m in made),  # type: ignore[misc]
        workers=6,
    )
    plain = metered.generate(texts.words[:6], max_new_tokens=3, ignore_eos=True)
    metas = [answer["meta_info"] for answer in answers]
    forks = sum(meta["multiverse_forks"] for meta in metas)
    critical = sum(meta["multiverse_critical_path_tokens"] for meta in metas)
    assert forks > len(metas)
    assert plain["meta_info"]["multiverse_forks"] == 0

    got = since(metered, before)
    assert got["eligible_requests_total"] == len(metas) + 1
    assert got["forked_requests_total stop"] == len(metas)
    assert got["forks_total"] == got["joins_total"] == got["paths_per_fork_count"] == forks
    assert got["paths_per_fork_sum"] == sum(meta["multiverse_paths"] for meta in metas)
    assert got["critical_path_tokens_count"] == got["parallelism_count"] == len(metas)
    assert got["critical_path_tokens_sum"] == critical
    assert got["generated_tokens_total"] == sum(meta["completion_tokens"] for meta in metas)
    assert got["parallelism_sum"] == pytest.approx(
        sum(meta["multiverse_parallelism"] for meta in metas), abs=1e-4
    )
    assert got["retracted_trees_total"] == got["replayed_tokens_total retraction"] == 0
    totals = told(metered)["totals"]
    assert totals["forks"] == scrape(metered)["forks_total"]


def test_metrics_carry_sglangs_own_labels(metered: Client) -> None:
    text = metered.server.request("/metrics/", raw=True)
    labels = {
        family.name: {frozenset(sample.labels) for sample in family.samples}
        for family in text_string_to_metric_families(text)
    }
    assert labels[f"{PREFIX}forks"] == labels["sglang:num_running_reqs"]
    assert labels[f"{PREFIX}running_requests"] == labels["sglang:num_running_reqs"]


def test_a_line_tells_of_each_forked_request(metered: Client, texts: Texts) -> None:
    made = [texts.make(seed) for seed in (40, 41)]
    answers = [force(metered, *m, texts.eos, rid=f"told-{i}") for i, m in enumerate(made)]
    metered.generate(texts.words[:6], max_new_tokens=3, ignore_eos=True, rid="plain")
    found = lines(metered)
    assert "plain" not in found
    for i, answer in enumerate(answers):
        meta = answer["meta_info"]
        assert found[f"told-{i}"] == {
            "rid": f"told-{i}",
            "forks": str(meta["multiverse_forks"]),
            "paths": str(meta["multiverse_paths"]),
            "depth": str(meta["multiverse_depth"]),
            "degree": f"{meta['multiverse_parallelism']:.3f}",
            "critical_path_tokens": str(meta["multiverse_critical_path_tokens"]),
            "generated_tokens": str(meta["completion_tokens"]),
            "forward_steps": str(meta["multiverse_forward_steps"]),
            "retractions": "0",
            "finish_reason": "stop",
        }


def test_misbehaviour_is_counted_by_kind(metered: Client, texts: Texts, dialect: Dialect) -> None:
    before = scrape(metered)
    whole, prompt_len = two_paths(dialect, texts, 12)
    last_path = len(whole) - 1 - whole[::-1].index(dialect[Tag.END_PATH])
    # The last path ends in an end of text.
    force(metered, whole[:last_path], prompt_len, texts.eos)
    # The budget is spent inside the paths.
    cut = force(metered, whole, prompt_len, texts.eos, max_new_tokens=last_path - 10)
    assert cut["meta_info"]["finish_reason"]["type"] == "length"
    # A goal with one outline, and a tag that means nothing where it stands.
    end = whole.index(dialect[Tag.END_OUTLINE]) + len(dialect.separator)
    declined = [*whole[: end + 1], dialect[Tag.END_GOAL], texts.words[0], dialect[Tag.OUTLINE]]
    force(metered, declined, prompt_len, texts.eos)
    with pytest.raises(ServerError, match="HTTP 400"):
        metered.generate(whole[:last_path], max_new_tokens=4, custom_params=ANYWHERE)
    got = since(metered, before)
    counted = {name: n for name, n in got.items() if name.startswith("malformed_total") and n}
    assert counted == {
        "malformed_total ended_inside_path": 1,
        "malformed_total length_inside_block": 1,
        "malformed_total single_outline": 1,
        "malformed_total stray_tag": 1,
        "malformed_total refused_prompt": 1,
    }
    assert got["forked_requests_total length"] == 1


def test_requests_apart_from_rows_and_a_replay_that_waits(
    metered: Client, texts: Texts, dialect: Dialect
) -> None:
    before = scrape(metered)
    whole, prompt_len = two_paths(dialect, texts, 400)
    answers: list[Any] = []
    thread = threading.Thread(
        target=lambda: answers.append(force(metered, whole, prompt_len, texts.eos, rid="long"))
    )
    thread.start()
    live = until(lambda: (s := told(metered))["live_rows"] == 2 and s)
    assert (live["trees"], live["running_requests"], live["live_paths"]) == (1, 1, 2)
    now = until(lambda: (s := scrape(metered))["sglang:num_running_reqs"] == 2 and s)
    assert now["running_requests"] == now["running_forked_requests"] == 1
    assert now["live_paths"] == 2
    (load,) = metered.server.request("/v1/loads?include=core")["loads"]
    assert (load["num_running_reqs"], load["num_waiting_reqs"]) == (1, 0)

    with metered.paused("retract"):
        waits = told(metered)
        assert (waits["trees"], waits["running_requests"], waits["replays_waiting"]) == (1, 0, 1)
    thread.join()
    (answer,) = answers
    assert answer["output_ids"] == [*whole[prompt_len:], texts.eos]
    got = since(metered, before)
    assert got["retracted_trees_total"] == 1
    assert 0 < got["replayed_tokens_total retraction"] <= len(whole)
    assert lines(metered)["long"]["retractions"] == "1"
    idle = until(lambda: (s := scrape(metered))["running_requests"] == 0 and s)
    assert idle["live_paths"] == idle["waiting_rows"] == idle["replays_waiting"] == 0


def test_a_prompt_with_finished_blocks_is_replayed(metered: Client, texts: Texts) -> None:
    before = scrape(metered)
    whole, _ = texts.make(50)
    metered.generate(whole, max_new_tokens=4, ignore_eos=True, custom_params=ANYWHERE)
    got = since(metered, before)
    assert got["replayed_tokens_total prompt"] >= len(whole) - 1
    assert got["eligible_requests_total"] == 1
    assert got["forked_requests_total stop"] + got["forked_requests_total length"] == 0


def test_rows_that_wait_their_turn_are_deferred(metered: Client, texts: Texts) -> None:
    before = scrape(metered)
    made = texts.make(60)
    custom = {"script": made[0], "eos": texts.eos, "multiverse": {"max_live_rows": 1}}
    answer = metered.force(made[0][: made[1]], custom)
    meta = answer["meta_info"]
    got = since(metered, before)
    # Of every fork, all paths but the first, and a path's turn may come more than once.
    assert got["deferred_rows_total"] >= meta["multiverse_paths"] - meta["multiverse_forks"] > 0


def test_server_info_tells_that_the_plugin_is_armed(metered: Client, dialect: Dialect) -> None:
    plugin = told(metered)
    assert plugin["version"] == __version__
    assert plugin["dialect"] == dialect.spec.name
    assert plugin["options"]["enabled"] is True
    assert plugin["options"]["max_branches"] == 16
    assert (plugin["trees"], plugin["live_rows"], plugin["replays_waiting"]) == (0, 0, 0)
    json.dumps(plugin)
