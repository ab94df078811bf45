"""What a caller asks for holds for the request, however many rows it takes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.layout import layout
from sglang_multiverse.sequencer import UNLIMITED
from sglang_multiverse.structure import parse

from ..core.oracle import addresses_of, visible
from .client import Client, ServerError
from .script import Forced, read_rows, starts
from .test_fidelity import TOLERANCE, gap, logprobs
from .texts import Texts

pytestmark = pytest.mark.weights("random")

ALL = {"structure": "all"}


def scripted(client: Client, texts: Texts, seed: int, **body: Any) -> tuple[list[int], Any]:
    """Have random text ``seed`` written; its tokens after the prompt, and the answer."""
    script, prompt_len = texts.make(seed)
    custom = {"script": script, "eos": texts.eos, **body.pop("custom", {})}
    return script[prompt_len:], client.force(script[:prompt_len], custom, **body)


@pytest.mark.parametrize("params", [[1, 2], "abc", 7, [], {"multiverse": None}, {"x": 1}])
def test_custom_params_of_any_kind_are_taken(overlap: Client, params: Any) -> None:
    prompt = [5, 6, 7, 8]
    plain = overlap.generate(prompt, max_new_tokens=6)
    answer = overlap.generate(prompt, max_new_tokens=6, custom_params=params)
    assert answer["output_ids"] == plain["output_ids"]


@pytest.mark.parametrize(
    "value",
    [7, "on", [1], {"max_branches": "3"}, {"max_depth": 1.5}, {"structure": ["all"]}, {"x": {}}],
)
def test_unusable_options_end_their_request_alone(overlap: Client, value: Any) -> None:
    with pytest.raises(ServerError, match=r"HTTP 400.*multiverse"):
        overlap.generate([5, 6, 7], custom_params={"multiverse": value})
    assert overlap.server.alive


# Stops.


@pytest.mark.parametrize("rows", [None, 1], ids=["parallel", "one row"])
def test_stop_strings_end_the_text_where_they_stand(
    server: Client, texts: Texts, tokenizer: Any, rows: int | None
) -> None:
    """Anywhere in the canonical text: in injected tags, across them, in a path that is not the
    first to be written."""
    rng = random.Random(4)
    limits = {} if rows is None else {"multiverse": {"max_live_rows": rows}}
    jobs = []
    for seed in range(16):
        script, prompt_len = texts.make(seed)
        text = tokenizer.decode(script[prompt_len:])
        at = rng.randrange(len(text) - 12)
        jobs.append((seed, text, text[at : at + rng.randint(3, 12)]))
    jobs += [(seed, jobs[seed][1], tag) for seed, tag in ((0, "<Path>"), (1, "<Conclusion>\n"))]
    jobs = [job for job in jobs if job[2].isascii() and job[2].strip()]

    def ask(seed: int, stop: str) -> Any:
        return scripted(server, texts, seed, stop=[stop], custom=limits)[1]

    answers = server.at_once((lambda j=job: ask(j[0], j[2])) for job in jobs)
    inside = 0
    for (_, text, stop), answer in zip(jobs, answers, strict=True):
        assert answer["text"] == text[: text.index(stop)], stop
        assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
        assert answer["meta_info"]["completion_tokens"] == len(answer["output_ids"])
        inside += "<Path>" in answer["text"]
    assert inside >= 5
    server.assert_sound()


def test_a_stop_string_is_never_streamed(overlap: Client, texts: Texts, tokenizer: Any) -> None:
    for seed in (3, 8):
        script, prompt_len = texts.make(seed)
        text = tokenizer.decode(script[prompt_len:])
        first = text.index("</Path>")
        stop = text[first : text.index("<Path>", first) + 6]
        events = overlap.stream(
            script[:prompt_len],
            custom_logit_processor=Forced.to_str(),
            custom_params={"script": script, "eos": texts.eos},
            stop=[stop],
        )
        assert all(stop not in event["text"] for event in events)
        assert events[-1]["text"] == text[:first]
        assert events[-1]["meta_info"]["finish_reason"]["matched"] == stop


@pytest.mark.parametrize("tag", [Tag.PATH, Tag.END_PATH, Tag.CONCLUSION, Tag.END_GOAL, None])
def test_stop_tokens_end_the_text_where_they_stand(
    server: Client, texts: Texts, dialect: Dialect, tag: Tag | None
) -> None:
    def ask(seed: int) -> tuple[list[int], int, Any]:
        script, prompt_len = texts.make(seed)
        rng = random.Random(seed)
        expected = script[prompt_len:]
        stop = rng.choice(expected[len(expected) // 3 :]) if tag is None else dialect[tag]
        return expected, stop, scripted(server, texts, seed, stop_token_ids=[stop])[1]

    seeds = range(30, 38)
    for expected, stop, answer in server.at_once((lambda s=s: ask(s)) for s in seeds):
        cut = expected[: expected.index(stop) + 1]
        assert answer["output_ids"] == cut
        assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    server.assert_sound()


def test_figures_describe_what_a_stop_left(overlap: Client, texts: Texts, dialect: Dialect) -> None:
    script, prompt_len = texts.make(9)
    stop = dialect[Tag.CONCLUSION]
    _, answer = scripted(overlap, texts, 9, stop_token_ids=[stop])
    meta = answer["meta_info"]
    laid = layout([*script[:prompt_len], *answer["output_ids"]], dialect)
    assert meta["multiverse_critical_path_tokens"] == laid.critical_path - prompt_len
    last = meta["multiverse_injected"][-1]
    assert last[1] <= len(answer["output_ids"])


# Penalties.


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_penalties_count_what_a_row_sees(
    tight: Client,
    texts: Texts,
    dialect: Dialect,
    random_model: Any,
    tmp_path: Path,
    penalty: str,
) -> None:
    """The logits a row samples from, less the trainer's, are the penalty of the answer's tokens
    that it sees: in paths, and again after a join."""
    script, prompt_len = texts.make(12)
    record = tmp_path / "rows"
    custom = {"script": script, "eos": texts.eos, "record": str(record)}
    answer = tight.force(script[:prompt_len], custom, **{penalty: 0.5})
    ids = [*script[:prompt_len], *answer["output_ids"]]
    trace = parse(ids, dialect)
    seen, where = visible(addresses_of(trace)), starts(trace)
    clean = logprobs(random_model, ids, layout(ids, dialect))
    checked = 0
    for key, own, _, logits in read_rows(str(record)):
        at = where[key] + own
        counts = torch.zeros(clean.shape[1])
        for token in (ids[i] for i in range(prompt_len, at) if seen[at - 1][i]):
            counts[token] += 1
        if penalty == "presence_penalty":
            counts.clamp_(max=1)
        expected = (clean[at - 1] - 0.5 * counts).log_softmax(-1)
        found = torch.tensor(logits).log_softmax(-1)
        assert float((found - expected).abs().max()) <= TOLERANCE, (key, own)
        checked += 1
    assert checked > 60


def test_min_new_tokens_counts_the_whole_answer(
    tight: Client, texts: Texts, tmp_path: Path
) -> None:
    """The end of text is out of reach until the answer, all it sees counted, is long enough."""
    script, prompt_len = texts.make(12)
    record = tmp_path / "rows"
    custom = {"script": script, "eos": texts.eos, "record": str(record)}
    least = 60
    tight.force(script[:prompt_len], custom, min_new_tokens=least)
    trunk = [
        (own - prompt_len, float(logits[texts.eos]))
        for key, own, _, logits in read_rows(str(record))
        if not key
    ]
    assert {written >= least for written, _ in trunk} == {True, False}
    for written, logit in trunk:
        assert (logit == float("-inf")) == (written < least), written


# Prompts.


def test_a_prompt_that_ends_at_a_goal_forks(
    server: Client, texts: Texts, dialect: Dialect, random_model: Any, tmp_path: Path
) -> None:
    worst = 0.0
    for seed, tail in ((2, 0), (4, 1), (6, 0)):
        script, _ = texts.make(seed)
        cut = parse(script, dialect).blocks[0].goal[1] + tail
        record = tmp_path / str(seed)
        custom = {
            "script": script,
            "eos": texts.eos,
            "record": str(record),
            "multiverse": ALL,
        }
        answer = server.force(script[:cut], custom)
        assert answer["output_ids"] == [*script[cut:], texts.eos]
        assert answer["meta_info"]["multiverse_forks"] == parse(script, dialect).n_blocks
        whole = [*script, texts.eos]
        difference, rows = gap(
            random_model, whole, layout(whole, dialect), dialect, record, UNLIMITED
        )
        assert rows > 20
        worst = max(worst, difference)
    assert worst <= TOLERANCE
    with pytest.raises(ServerError, match="no room for the paths"):
        server.generate(script[:cut], max_new_tokens=3, custom_params={"multiverse": ALL})


def structured(texts: Texts, dialect: Dialect, seed: int = 2) -> tuple[list[int], int]:
    """A text, and a place behind its first block."""
    script, _ = texts.make(seed, blocks=2, depth=2)
    return script, parse(script, dialect).blocks[0].end + 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            {"max_new_tokens": 0, "return_logprob": True, "logprob_start_len": 0},
            "logprob_start_len",
        ),
        ({"return_logprob": True, "logprob_start_len": 0}, "logprob_start_len"),
    ],
)
def test_a_structured_prompt_is_never_taken_for_a_causal_one(
    overlap: Client, texts: Texts, dialect: Dialect, body: dict[str, Any], says: str
) -> None:
    script, cut = structured(texts, dialect)
    with pytest.raises(ServerError, match=rf"HTTP 400.*{says}"):
        overlap.generate(script[:cut], custom_params={"multiverse": ALL}, **body)
    none = {"multiverse": {"structure": "none"}}
    words = overlap.generate(script[:cut], custom_params=none, max_new_tokens=4)
    assert words["meta_info"]["prompt_tokens"] == cut


def test_a_beam_over_earlier_blocks_is_refused(
    overlap: Client, tokenizer: Any, texts: Texts, dialect: Dialect
) -> None:
    script, _ = texts.make(2)
    block = parse(script, dialect).blocks[0]
    messages = [
        {"role": "user", "content": "Go on."},
        {"role": "assistant", "content": tokenizer.decode(script[block.start : block.end])},
        {"role": "user", "content": "And?"},
    ]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    with pytest.raises(ServerError, match=r"HTTP 400.*beam search"):
        overlap.generate(list(ids), max_new_tokens=4, beam_width=2)
    overlap.assert_sound()


@pytest.mark.parametrize("how", ["off", "grammar"])
def test_a_request_that_may_not_fork_sees_earlier_blocks_as_they_were_made(
    server: Client,
    texts: Texts,
    dialect: Dialect,
    random_model: Any,
    how: str,
) -> None:
    script, cut = structured(texts, dialect)
    options = {**ALL, "enabled": False} if how == "off" else ALL
    body = {} if how == "off" else {"regex": "[a-z ]{8}"}
    answer = server.generate(
        script[:cut],
        custom_params={"multiverse": options},
        max_new_tokens=8,
        return_logprob=True,
        top_logprobs_num=1,
        **body,
    )
    ids = [*script[:cut], *answer["output_ids"]]
    meta = answer["meta_info"]
    assert meta["multiverse_forks"] == 0
    if how == "off":
        expected = logprobs(random_model, ids, layout(ids, dialect))
        for i, (value, token, _) in enumerate(meta["output_token_logprobs"]):
            assert abs(value - float(expected[cut + i - 1, token])) <= TOLERANCE


def test_tags_in_a_users_message_are_words(
    overlap: Client, tokenizer: Any, texts: Texts, dialect: Dialect
) -> None:
    """A quoted block, whole or open, is ordinary prompt text: answered, and kept in the prefix
    cache; the same block in an assistant's turn is structure."""
    script, _ = texts.make(2)
    block = parse(script, dialect).blocks[0]
    whole = tokenizer.decode(script[block.start : block.end])
    half = tokenizer.decode(script[block.start : block.paths[0].start + 2])
    overlap.forget()

    def prompt(user: str, *more: dict[str, str]) -> list[int]:
        messages = [{"role": "user", "content": user}, *more]
        return list(
            tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        )

    for quoted in (whole, half):
        ids = prompt(f"What is {quoted} about?")
        overlap.generate(ids, max_new_tokens=4)
        again = overlap.generate(ids, max_new_tokens=4)
        assert again["meta_info"]["cached_tokens"] == len(ids) - 1
    turn = prompt(
        "Go on.",
        {"role": "assistant", "content": whole},
        {"role": "user", "content": f"And {half}?"},
    )
    hits = []
    for _ in range(2):
        answer = overlap.generate(turn, max_new_tokens=4)
        hits.append(answer["meta_info"]["cached_tokens"])
    assert hits == [hits[0], len(turn) - 1]  # the second finds it, laid out as the first made it
    assert hits[0] < 20  # of the question quoted above, no more than its first words
    opened = prompt("Go on.", {"role": "assistant", "content": half})
    with pytest.raises(ServerError, match="inside a parallel block"):
        overlap.generate(opened, max_new_tokens=4)


# Logprobs.


def test_forced_tokens_have_entries_like_any_other(overlap: Client, texts: Texts) -> None:
    asked = [3, 9, 11]
    _, answer = scripted(
        overlap, texts, 19, return_logprob=True, top_logprobs_num=3, token_ids_logprob=asked
    )
    meta = answer["meta_info"]
    injected = [i for start, end in meta["multiverse_injected"] for i in range(start, end)]
    assert len(injected) > 10
    assert {len(top) for top in meta["output_top_logprobs"]} == {3}
    for i in injected:
        token = answer["output_ids"][i]
        assert meta["output_top_logprobs"][i][0][:2] == [0.0, token]
        assert len({entry[1] for entry in meta["output_top_logprobs"][i]}) == 3
    for row in meta["output_token_ids_logprobs"]:
        assert [entry[1] for entry in row] == asked
        assert all(isinstance(entry[0], float) for entry in row)


# Depth.


def test_a_chain_of_nested_forks_as_deep_as_any_may_be(
    overlap: Client, texts: Texts, dialect: Dialect
) -> None:
    """The server sets no bound of its own; the one that is tested holds."""
    word, other = texts.words[:2]
    outline = [dialect[Tag.OUTLINE], word, dialect[Tag.END_OUTLINE]]
    goal = [dialect[Tag.PARALLEL], dialect[Tag.GOAL], *outline, *outline, dialect[Tag.END_GOAL]]

    def nest(depth: int) -> list[int]:
        end = [dialect[Tag.END_PATH], *dialect.path_tail]
        inner = nest(depth - 1) if depth else [other]
        seeds = [dialect.path_seed(dialect.ordinal(i)) for i in range(2)]
        paths = [*seeds[0], *inner, *end, *seeds[1], other, *end]
        return [*goal, *dialect.goal_tail, *paths, *dialect.conclusion_seed, other]

    script = [word, *nest(DEPTH - 1)]
    answer = overlap.force(
        script[:1], {"script": script, "eos": texts.eos}, max_new_tokens=len(script) + 8
    )
    assert answer["output_ids"] == [*script[1:], texts.eos]
    assert answer["meta_info"]["multiverse_depth"] == DEPTH
    overlap.assert_sound()


#: Nested in the tiny model's context of 2048 tokens.
DEPTH = 64


# What would end a server.


@pytest.mark.parametrize(
    ("ids", "body", "says"),
    [
        ([], {}, "empty"),
        ([5, -1], {}, "input_ids holds -1"),
        ([5, 10**7], {}, "input_ids holds 10000000"),
        ([5], {"return_logprob": True, "top_logprobs_num": 10**6}, "top_logprobs_num"),
        ([5], {"return_logprob": True, "logprob_start_len": -7}, "logprob_start_len"),
        ([5], {"logit_bias": {"1000000": 1.0}}, "logit_bias"),
        ([5], {"custom_logit_processor": "no JSON"}, "custom_logit_processor"),
        ([5], {"custom_logit_processor": '{"callable": "80"}'}, "custom_logit_processor"),
        ([5], {"custom_logit_processor": "[]"}, "custom_logit_processor"),
    ],
)
def test_values_that_no_forward_pass_can_take(
    overlap: Client, ids: list[int], body: dict[str, Any], says: str
) -> None:
    with pytest.raises(ServerError, match=f"HTTP 400.*{says}"):
        overlap.generate(ids, max_new_tokens=4, **body)
    overlap.assert_sound()


def test_several_answers_to_a_follow_up(overlap: Client, texts: Texts, dialect: Dialect) -> None:
    """SGLang first computes the prompt they share, with no token to generate."""
    script, cut = structured(texts, dialect)
    body = {"max_new_tokens": 6, "custom_params": {"multiverse": ALL}}
    alone = overlap.generate(script[:cut], **body)
    both = overlap.generate(script[:cut], n=2, **body)
    assert [answer["output_ids"] for answer in both] == 2 * [alone["output_ids"]]
    assert overlap.generate(script[:cut], **{**body, "max_new_tokens": 0})["text"] == ""
    overlap.assert_sound()


def test_a_stop_string_is_whole_wherever_it_stands(
    overlap: Client, texts: Texts, tokenizer: Any
) -> None:
    """What is handed on every fifty tokens does not cut it."""
    script, prompt_len = texts.make(7)
    expected = script[prompt_len:]
    for at in (49, 50, 51, 99, 100, 101):
        head, stop = tokenizer.decode(expected[:at]), tokenizer.decode(expected[at - 2 : at + 3])
        text = tokenizer.decode(expected)
        if not stop.isascii() or not text.startswith(head):
            continue
        _, answer = scripted(overlap, texts, 7, stop=[stop])
        assert answer["text"] == text[: text.index(stop)], at


def test_a_grammar_shorter_than_the_answer_must_be_ends_it(server: Client) -> None:
    """Nothing can be sampled once the grammar is through and the end of text is still forbidden."""
    body = {"regex": "[0-9]{1,4}", "min_new_tokens": 18, "max_new_tokens": 30}
    calls = [
        (lambda k=k: server.generate([5, 6, 7 + k], temperature=1.0, top_p=0.9, **body))
        for k in range(4)
    ]
    calls += [(lambda: server.generate([9, 9, 8], temperature=1.0, top_k=5, max_new_tokens=40))]
    for answer in server.at_once(calls)[:4]:
        assert answer["meta_info"]["finish_reason"]["type"] == "stop"
        assert 1 <= len(answer["text"]) <= 4
    server.assert_sound()
