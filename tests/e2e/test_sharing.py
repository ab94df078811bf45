"""Paths that see one another after every k tokens: the engine's logits are the trainer's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.layout import Layout, layout
from sglang_multiverse.sequencer import Limits
from sglang_multiverse.structure import parse

from .client import Client
from .conftest import _serve
from .faults import FAULTS, HARMLESS, end_alone
from .script import read_rows, starts
from .test_events import positions, put_together
from .test_fidelity import TOLERANCE
from .texts import Texts

pytestmark = pytest.mark.weights("random")

EVERY = 4
FLAT = Limits(max_depth=1)


@pytest.fixture(scope="module")
def roomy() -> Iterator[Client]:
    """Overlap scheduling on, room for everything."""
    yield from _serve(True, "--max-total-tokens", "20000", "--multiverse-share-every", str(EVERY))


@pytest.fixture(scope="module")
def narrow() -> Iterator[Client]:
    """Overlap scheduling off, a pool that a dozen requests overfill, two paths at a time, and our
    own attention backend."""
    yield from _serve(
        True,
        *("--max-total-tokens", "1400", "--schedule-conservativeness", "0.02"),
        *("--disable-overlap-schedule", "--attention-backend", "multiverse"),
        *("--multiverse-share-every", str(EVERY), "--multiverse-policy", "cap:2"),
    )


@pytest.fixture(params=["roomy", "narrow"])
def client(request: pytest.FixtureRequest, random_weights: Path) -> Client:
    client: Client = request.getfixturevalue(request.param)
    client.use(random_weights)
    return client


def flat(ids: list[int], dialect: Dialect, every: int | None = EVERY) -> Layout:
    """The layout of what a server that shares has written."""
    return layout(ids, dialect, limits=FLAT, share_every=every)


def logprobs(model: Any, ids: list[int], laid: Layout) -> torch.Tensor:
    """The trainer's log-probabilities after every token, shape ``(length, vocabulary)``."""
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([ids]),
            position_ids=torch.tensor(laid.position)[None],
            multiverse_order=torch.tensor(laid.order, dtype=torch.int32)[None],
            multiverse_rank=torch.tensor(laid.ranks, dtype=torch.int32)[None],
            use_cache=False,
        ).logits
    return logits[0].log_softmax(-1)


def gap(
    model: Any,
    ids: list[int],
    laid: Layout,
    dialect: Dialect,
    record: Path,
    limits: Limits = FLAT,
) -> tuple[float, int]:
    """Greatest difference between recorded rows and the trainer's, and how many rows there are."""
    expected = logprobs(model, ids, laid)
    trace = parse(ids, dialect, limits=limits)
    where = starts(trace)
    # With overlap a row is computed in vain when the path pauses or has ended: the last one counts,
    # and none after an end.
    rows = {(key, own): (token, logits) for key, own, token, logits in read_rows(str(record))}
    ended = {path.close for block in trace.blocks for path in block.paths}
    worst, count = 0.0, 0
    for (key, own), (_, logits) in rows.items():
        at = where[key] + own if key in where else len(ids) + 1
        if at > len(ids) or at in ended:
            continue
        before = rows.get((key, own - 1))
        if before is not None and before[0] != ids[at - 1]:
            continue
        row = torch.tensor(logits).log_softmax(-1)
        worst = max(worst, float((row - expected[at - 1]).abs().max()))
        count += 1
    return worst, count


def write(client: Client, texts: Texts, seed: int, record: Path, **custom: Any) -> list[int]:
    """Have the engine write a random text; returns what it wrote, prompt first."""
    script, prompt_len = long_text(texts, seed)
    answer = client.force(
        script[:prompt_len],
        {"script": script, "eos": texts.eos, "record": str(record), **custom},
        max_new_tokens=len(script),
    )
    assert answer["output_ids"] == [*script[prompt_len:], texts.eos]
    return [*script, texts.eos]


def long_text(texts: Texts, seed: int) -> tuple[list[int], int]:
    """One of several blocks, some with goals inside paths, which stay text."""
    return texts.make(seed, depth=1 + seed % 2, blocks=1 + seed % 3)


def test_every_row_is_the_trainers(
    client: Client, texts: Texts, dialect: Dialect, random_model: Any, tmp_path: Path
) -> None:
    seeds = range(40)
    written = [write(client, texts, seed, tmp_path / str(seed)) for seed in seeds[:10]]
    written += client.at_once(
        (lambda s=seed: write(client, texts, s, tmp_path / str(s))) for seed in seeds[10:]
    )
    worst, rows, apart, shared = 0.0, 0, 0.0, 0
    for seed, ids in zip(seeds, written, strict=True):
        laid, record = flat(ids, dialect), tmp_path / str(seed)
        difference, count = gap(random_model, ids, laid, dialect, record)
        worst, rows = max(worst, difference), rows + count
        shared += laid.rank is not None
        if seed < 5:
            apart = max(apart, gap(random_model, ids, flat(ids, dialect, None), dialect, record)[0])
    print(
        f"\nsharing every {EVERY}: {len(written)} texts ({shared} share), {rows} rows: "
        f"max |Δ logprob| {worst:.2e}; laid out without sharing {apart:.2e}"
    )
    assert shared > 30
    assert rows > 1500
    assert worst <= TOLERANCE
    assert apart > 100 * TOLERANCE
    client.assert_sound()


def test_events_tell_the_positions_of_the_layout(
    client: Client, texts: Texts, dialect: Dialect
) -> None:
    shared = 0
    for seed in range(6):
        script, prompt_len = long_text(texts, seed)
        answer = client.force(
            script[:prompt_len],
            {"script": script, "eos": texts.eos, "multiverse": {"events": True}},
            max_new_tokens=len(script),
        )
        events = answer["meta_info"]["multiverse_events"]
        assert put_together(events) == answer["text"]
        laid = flat([*script, texts.eos], dialect)
        shared += laid.rank is not None
        told = [position for run in positions(events).values() for position in run]
        assert sorted(told) == sorted(laid.position[prompt_len:].tolist())
        for path, run in positions(events).items():
            if path:
                assert run == list(range(run[0], run[0] + len(run)))
    assert shared >= 3


def test_whatever_a_model_may_emit(
    client: Client, texts: Texts, dialect: Dialect, random_model: Any, tmp_path: Path
) -> None:
    """Tags in any order, ends of text inside paths, thoughts closed too early, length limits."""
    limits = Limits(max_branches=3, max_depth=1)
    outline = [dialect[Tag.OUTLINE], texts.words[0], dialect[Tag.END_OUTLINE]]
    opening = [dialect[Tag.PARALLEL], dialect[Tag.GOAL], *outline, *outline, dialect[Tag.END_GOAL]]
    soup = {
        "opening": opening,
        "tags": list(dialect.tag_ids),
        "closers": 2 * [dialect[Tag.END_PATH]],
        "words": texts.words[:12],
        "eos": texts.eos,
        "multiverse": {"max_branches": 3},
    }

    def emit(seed: int) -> list[int]:
        prompt = texts.words[seed : seed + 5]
        params = {**soup, "soup": seed, "record": str(tmp_path / str(seed))}
        answer = client.force(prompt, params, max_new_tokens=60 + 9 * seed)
        return [*prompt, *answer["output_ids"]]

    written = client.at_once((lambda s=seed: emit(s)) for seed in range(40))
    worst, rows, blocks = 0.0, 0, 0
    for seed, ids in enumerate(written):
        trace = parse(ids, dialect, limits=limits)
        if any(not block.joined for block in trace.blocks):
            continue  # cut inside a block, and with it what its tokens saw
        laid = layout(ids, dialect, limits=limits, share_every=EVERY)
        difference, count = gap(random_model, ids, laid, dialect, tmp_path / str(seed), limits)
        worst, rows, blocks = max(worst, difference), rows + count, blocks + len(trace.blocks)
    print(f"\nsharing, soup: {blocks} blocks, {rows} rows, max |Δ logprob| {worst:.2e}")
    assert blocks >= 10
    assert rows > 500
    assert worst <= TOLERANCE
    client.assert_sound()


def test_a_follow_up_sees_finished_blocks_as_they_were_made(
    client: Client, texts: Texts, dialect: Dialect, random_model: Any, tmp_path: Path
) -> None:
    """Both where the prompt ends behind a block and where it ends at a goal that forks."""
    worst, rows = 0.0, 0
    for seed in range(6):
        script, _ = long_text(texts, 2 + 3 * seed)
        blocks = parse(script, dialect, limits=FLAT).blocks
        cut = blocks[1].end + 1 if seed % 2 else blocks[1].region_start
        record = tmp_path / str(seed)
        for asked in range(2):  # the second time, perhaps out of the prefix cache
            record.unlink(missing_ok=True)
            answer = client.force(
                script[:cut],
                {
                    "script": script,
                    "eos": texts.eos,
                    "record": str(record),
                    "multiverse": {"structure": "all"},
                },
                max_new_tokens=len(script),
            )
            ids = [*script, texts.eos]
            assert answer["output_ids"] == ids[cut:], asked
            difference, count = gap(random_model, ids, flat(ids, dialect), dialect, record)
            worst, rows = max(worst, difference), rows + count
    print(f"\nsharing, finished blocks in the prompt: {rows} rows, max |Δ logprob| {worst:.2e}")
    assert rows > 200
    assert worst <= TOLERANCE
    client.assert_sound()


def test_a_request_can_be_aborted_at_any_time(
    client: Client, texts: Texts, random_weights: Path
) -> None:
    """Paths that run, that wait for a sibling, and that are about to go on together."""
    script, prompt_len = long_text(texts, 5)
    ended = []
    for step in range(24):
        rid = f"sharing-{step}"

        def ask(rid: str = rid) -> None:
            params = {"script": script, "eos": texts.eos}
            ended.append(client.force(script[:prompt_len], params, rid=rid)["meta_info"])

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.05 + 0.04 * step)
        client.server.request("/abort_request", {"rid": rid}, raw=True)
        asking.join(60)
        assert not asking.is_alive()
    reasons = [meta["finish_reason"]["type"] for meta in ended]
    print(f"\naborted {reasons.count('abort')} of {len(reasons)}")
    assert "abort" in reasons
    client.assert_sound()


def test_what_cuts_an_answer_short_leaves_nothing_behind(
    client: Client, texts: Texts, dialect: Dialect
) -> None:
    """Length limits at any token of a block, and a stop in a later path while its siblings run."""
    script, prompt_len = long_text(texts, 5)
    block = parse(script, dialect, limits=FLAT).blocks[0]
    custom = {"script": script, "eos": texts.eos}
    whole = [*script[prompt_len:], texts.eos]
    for limit in range(block.start - prompt_len, block.end - prompt_len, 3):
        answer = client.force(script[:prompt_len], custom, max_new_tokens=limit)
        assert answer["meta_info"]["finish_reason"]["type"] == "length"
        assert len(answer["output_ids"]) <= limit
    before = {*whole[: block.paths[1].start - prompt_len]}
    for path in block.paths[1:]:
        stop = next((t for t in script[path.start : path.end] if t not in before), None)
        if stop is None:
            continue
        answer = client.force(script[:prompt_len], custom, stop_token_ids=[stop])
        assert answer["output_ids"] == whole[: whole.index(stop) + 1]
        assert answer["meta_info"]["finish_reason"]["matched"] == stop
    client.assert_sound()


def test_a_tight_pool_takes_trees_away_and_computes_them_again(
    narrow: Client, random_weights: Path, texts: Texts, dialect: Dialect, random_model: Any
) -> None:
    """Whoever ran this module's first test alone still sees that its second server retracts."""
    narrow.use(random_weights)
    scripts = [long_text(texts, 3 * seed + 2) for seed in range(14)]
    answers = narrow.at_once(
        (
            lambda s=script, n=prompt_len: narrow.force(
                s[:n], {"script": s, "eos": texts.eos}, max_new_tokens=len(s)
            )
        )
        for script, prompt_len in scripts
    )
    for (script, prompt_len), answer in zip(scripts, answers, strict=True):
        assert answer["output_ids"] == [*script[prompt_len:], texts.eos]
    again = [answer["meta_info"]["num_retractions"] for answer in answers]
    print(f"\nretracted {sum(again)} times, {sum(map(bool, again))} of {len(again)} requests")
    assert sum(again)
    narrow.assert_sound()


#: Where paths share, each resumes with its siblings: none is seeded.
STRUCK = [f for f in FAULTS if f not in HARMLESS and not f.startswith("Seed.")]


@pytest.mark.parametrize("fault", STRUCK)
def test_a_fault_ends_its_request_alone(
    narrow: Client, random_weights: Path, texts: Texts, fault: str
) -> None:
    """Siblings of the path it strikes may wait for it, and trees around it be taken away."""
    narrow.use(random_weights)
    end_alone(narrow, lambda seed: long_text(texts, seed), texts.eos, fault)
