"""The requests that the attacks make: the same from the same seed, and of every kind."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from sglang_multiverse.dialect import Tag
from sglang_multiverse.sequencer import Limits, Sequencer, Signal
from sglang_multiverse.stress import controls, hostile
from sglang_multiverse.stress.bodies import Speech
from sglang_multiverse.stress.fuzz import Fuzz
from sglang_multiverse.stress.scripted import Forced, soup_token
from sglang_multiverse.stress.settings import setting
from sglang_multiverse.stress.soups import random_soup
from sglang_multiverse.tiny import MODEL_DIR


def test_a_seed_makes_the_same_rounds_again(speech: Speech) -> None:
    def told(seed: int, this: int) -> list[list[str]]:
        fuzz = Fuzz(MODEL_DIR, speech, seed=seed, minutes=1)
        return [[json.dumps(call.told()) for call in c] for c in fuzz.calls(0, this)]

    assert told(7, 3) == told(7, 3)
    assert told(7, 3) != told(7, 4)
    assert told(7, 3) != told(8, 3)
    assert [setting(7, n) for n in range(9)] == [setting(7, n) for n in range(9)]


def test_every_endpoint_and_kind_is_reached(speech: Speech) -> None:
    kinds: Counter[str] = Counter()
    paths: set[str] = set()
    fuzz = Fuzz(MODEL_DIR, speech, seed=0, minutes=1)
    for this in range(60):
        for chain in fuzz.calls(0, this):
            kinds.update(call.kind for call in chain)
            paths |= {call.path.partition("?")[0] for call in chain}
    assert paths >= {
        *("/generate", "/v1/chat/completions", "/v1/completions", "/v1/score", "/v1/models"),
        *("/abort_request", "/pause_generation", "/continue_generation", "/flush_cache"),
        *("/update_weights_from_disk", "/v1/loads", "/server_info", "/health"),
    }
    assert kinds.keys() >= {
        *(
            "generate plain",
            "generate spoilt",
            "generate scripted",
            "generate soup",
            "generate scoring",
        ),
        *("generate batch", "generate follow-up", "generate tags in the prompt", "no request"),
        *("chat", "chat spoilt", "chat soup", "completion", "completion spoilt", "score"),
        *("pause abort", "pause retract", "pause in_place", "continue", "update weights"),
    }


def test_every_server_differs_in_pool_and_overlap() -> None:
    shown = [str(setting(0, n)) for n in range(10)]
    assert sum("--disable-overlap-schedule" in flags for flags in shown) == 5
    assert len({flags.split()[0] for flags in shown}) == 5


@pytest.mark.parametrize("value", [[1, 2], "abc", 7], ids=str)
def test_custom_params_of_every_kind_are_tried(value: object) -> None:
    assert value in hostile.CUSTOM_PARAMS


def test_spoiling_leaves_the_original_alone() -> None:
    body = {"text": "a", "sampling_params": {"max_new_tokens": 3}}
    rng = random.Random(0)
    spoilt = [hostile.spoil(rng, body, hostile.GENERATE_FIELDS, 3) for _ in range(200)]
    assert body == {"text": "a", "sampling_params": {"max_new_tokens": 3}}
    assert sum(one != body for one in spoilt) > 190


def test_soups_hold_every_tag_and_fork(speech: Speech) -> None:
    """A stream of random grammars opens blocks that an engine forks at."""
    rng, dialect, texts = random.Random(0), speech.dialect, speech.texts
    seen: set[int] = set()
    forks = 0
    for _ in range(80):
        params = random_soup(rng, dialect, texts.words[:9], texts.eos)
        ids = [soup_token(params["soup"], "", at, params) for at in range(150)]
        assert ids == [soup_token(params["soup"], "", at, params) for at in range(150)]
        seen |= set(ids)
        sequencer = Sequencer(dialect, 0, Limits(None, None))
        forks += any(sequencer.feed(token, at) is Signal.FORK for at, token in enumerate(ids))
    assert seen >= {dialect[tag] for tag in Tag}
    assert forks > 20


def test_the_processor_leaves_other_requests_alone() -> None:
    logits = ["row"]
    assert Forced()(logits, [{"multiverse": False}]) is logits
    assert Forced()(logits, [None]) is logits


def test_at_most_one_chain_pauses_and_it_continues() -> None:
    for seed in range(200):
        chains = controls.chains(random.Random(seed), ["a"], 2.0, "folder")
        pauses = [c for c in chains if any(call.path == "/pause_generation" for call in c)]
        assert len(pauses) <= 1
        assert all(chain[-1].path == "/continue_generation" for chain in pauses)
