"""Turn two costs turn two: an earlier forked answer is read from the prefix cache, exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.layout import layout, segments
from sglang_multiverse.sequencer import UNLIMITED
from sglang_multiverse.structure import parse

from .client import Client
from .test_fidelity import TOLERANCE, gap, logprobs
from .texts import Texts

pytestmark = pytest.mark.weights("random")

TURNS = 10


@dataclass
class Conversation:
    """Turns of random texts with blocks, each asked after all before it."""

    client: Client
    texts: Texts
    number: int
    record: Path
    ids: list[int] = field(default_factory=list)
    cached: list[tuple[int, int]] = field(default_factory=list)

    def turn(self, seed: int) -> None:
        """One question and its answer."""
        new, prompt_len = self.texts.make(1000 * self.number + seed, depth=1 + (seed % 3 == 0))
        script = [*self.ids, *new]
        answer = self.client.force(
            script[: len(self.ids) + prompt_len],
            {
                "script": script,
                "eos": self.texts.eos,
                "record": str(self.record),
                "multiverse": {"structure": "all"},
            },
            max_new_tokens=len(new),
        )
        assert answer["output_ids"] == [*new[prompt_len:], self.texts.eos]
        self.cached.append((answer["meta_info"]["cached_tokens"], len(self.ids)))
        self.ids = [*script, self.texts.eos]

    def run(self, turns: int = TURNS) -> Conversation:
        for seed in range(turns):
            self.turn(seed)
        return self


def test_ten_turns_compute_new_tokens_only(
    every: Client,
    texts: Texts,
    dialect: Dialect,
    random_model: Any,
    tmp_path: Path,
) -> None:
    every.forget()
    talk = Conversation(every, texts, 1, tmp_path / "rows").run()
    assert talk.cached[0] == (0, 0)
    # All of what came before; the end of text was sampled, and computed with overlap alone.
    assert {before - hit for hit, before in talk.cached[1:]} <= {0, 1}
    laid = layout(talk.ids, dialect)
    worst, rows = gap(random_model, talk.ids, laid, dialect, talk.record, UNLIMITED)
    print(f"\n{TURNS} turns, {len(talk.ids)} tokens, {rows} rows: max |Δ logprob| {worst:.2e}")
    assert rows > 300
    assert worst <= TOLERANCE
    every.assert_sound()


def test_conversations_side_by_side_push_one_another_out(
    every: Client,
    texts: Texts,
    dialect: Dialect,
    random_model: Any,
    tmp_path: Path,
) -> None:
    """More than the pools hold: parts of earlier answers are evicted, at any place, and what is
    left is still right."""
    talks = [Conversation(every, texts, n, tmp_path / f"rows{n}") for n in range(2, 10)]
    every.at_once([lambda t=talk: t.run(5) for talk in talks])
    worst = 0.0
    for talk in talks:
        laid = layout(talk.ids, dialect)
        difference, _ = gap(random_model, talk.ids, laid, dialect, talk.record, UNLIMITED)
        worst = max(worst, difference)
    partly = sum(0 < hit < before - 1 for talk in talks for hit, before in talk.cached)
    print(f"\nside by side: {partly} turns found a part, max |Δ logprob| {worst:.2e}")
    assert partly or every.load("max_total_num_tokens") > 3000
    assert worst <= TOLERANCE
    every.assert_sound()


def test_a_causal_request_never_reads_structured_kv(
    every: Client, texts: Texts, dialect: Dialect, random_model: Any, tmp_path: Path
) -> None:
    """The same tokens as words share the causal beginning and nothing behind it."""
    talk = Conversation(every, texts, 20, tmp_path / "rows").run(1)
    ids = talk.ids[:-1]
    second_path = segments(parse(ids, dialect))[1].start
    answer = every.generate(
        [*ids, texts.words[0]],
        custom_params={"multiverse": {"structure": "none"}},
        max_new_tokens=1,
        return_logprob=True,
    )
    assert answer["meta_info"]["cached_tokens"] <= second_path
    plain = layout([1] * (len(ids) + 1), dialect)
    expected = logprobs(random_model, [*ids, texts.words[0]], plain)[-1]
    (value, token, _), *_ = answer["meta_info"]["output_token_logprobs"]
    assert abs(value - float(expected[token])) <= TOLERANCE


def test_an_answer_forks_behind_blocks_that_are_words(overlap: Client, texts: Texts) -> None:
    """A raw prompt has no assistant turns, so its tags are words; the answer's are structure."""
    before, _ = texts.make(31, depth=2)
    new, prompt_len = texts.make(32, depth=2)
    script = [*before, *new]
    answer = overlap.force(script[: len(before) + prompt_len], {"script": script, "eos": texts.eos})
    assert answer["output_ids"] == [*new[prompt_len:], texts.eos]
    assert answer["meta_info"]["multiverse_forks"] > 0


def test_one_question_asked_again_after_a_limited_one(
    every: Client, texts: Texts, dialect: Dialect, random_model: Any, tmp_path: Path
) -> None:
    """An answer whose goals were declined is another text to the cache than one that forked."""
    script, prompt_len = texts.make(77, depth=1)
    for limit in (0, 16, 0):
        record = tmp_path / str(limit)
        record.unlink(missing_ok=True)
        custom = {"script": script, "eos": texts.eos, "multiverse": {"max_branches": limit}}
        answer = every.force(script[:prompt_len], custom)
        assert answer["meta_info"]["multiverse_forks"] == (limit > 0)
        follow = [*script, texts.words[1]]
        structure = {"multiverse": {"structure": "all" if limit else "none"}}
        again = every.generate(
            follow, custom_params=structure, max_new_tokens=1, return_logprob=True
        )
        assert again["meta_info"]["cached_tokens"] >= len(script) - 1
        laid = layout(follow if limit else [1] * len(follow), dialect)
        (value, token, _), *_ = again["meta_info"]["output_token_logprobs"]
        expected = logprobs(random_model, follow, laid)[-1]
        assert abs(value - float(expected[token])) <= TOLERANCE


@pytest.mark.parametrize("start", [0, 5])
def test_a_text_with_blocks_is_scored_as_it_was_made(
    segmented: Client, texts: Texts, dialect: Dialect, random_model: Any, start: int
) -> None:
    """Logprobs of a prompt: every token's under its own layout, in chunks, after a cached prefix,
    with top and chosen ids; where no single row holds a token's context it is the engine's own."""
    for seed in range(6):
        script, _ = texts.make(seed, depth=3)
        answer = segmented.generate(
            script,
            custom_params={"multiverse": {"structure": "all"}},
            max_new_tokens=seed % 2,
            return_logprob=True,
            logprob_start_len=start,
            top_logprobs_num=2,
            token_ids_logprob=[7, 9],
        )
        meta = answer["meta_info"]
        expected = logprobs(random_model, script, layout(script, dialect))
        written = {segment.start for segment in segments(parse(script, dialect))[1:]}
        found = meta["input_token_logprobs"]
        assert [token for _, token, _ in found] == script[start:]
        assert found[0][0] is None
        for at in range(start + 1, len(script)):
            value, token, _ = found[at - start]
            if at in written:
                assert value == 0.0
                assert meta["input_top_logprobs"][at - start][0][:2] == [0.0, token]
                continue
            row = expected[at - 1]
            assert abs(value - float(row[token])) <= TOLERANCE
            top = row.topk(2)
            for entry, best in zip(meta["input_top_logprobs"][at - start], top.values, strict=True):
                assert abs(entry[0] - float(best)) <= TOLERANCE
            for entry in meta["input_token_ids_logprobs"][at - start]:
                assert abs(entry[0] - float(row[entry[1]])) <= TOLERANCE
    segmented.assert_sound()
