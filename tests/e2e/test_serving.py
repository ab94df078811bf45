"""What a caller sees: text, order, counts, logprobs, streams, limits, aborts."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

import pytest

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.layout import layout
from sglang_multiverse.parallelism import parallelism
from sglang_multiverse.structure import parse

from .client import Client, ServerError
from .script import Forced
from .texts import Texts

pytestmark = pytest.mark.weights("random")


def scripted(client: Client, texts: Texts, seed: int, **body: Any) -> tuple[list[int], Any]:
    """Write random text ``seed``; its tokens after the prompt, and the answer."""
    script, prompt_len = texts.make(seed)
    custom = {"script": script, "eos": texts.eos, **body.pop("custom", {})}
    return script[prompt_len:], client.force(script[:prompt_len], custom, **body)


def test_meta_info_tells_the_structure(
    server: Client, texts: Texts, dialect: Dialect, tokenizer: Any
) -> None:
    script, prompt_len = texts.make(3)
    expected, answer = scripted(server, texts, 3)
    meta = answer["meta_info"]
    whole = [*script, texts.eos]
    trace = parse(whole, dialect)
    measured = parallelism(trace, prompt_tokens=prompt_len)
    assert meta["completion_tokens"] == len(expected) + 1 == measured.tokens
    assert meta["multiverse_forks"] == measured.blocks
    assert meta["multiverse_paths"] == measured.paths
    assert meta["multiverse_depth"] == measured.depth
    assert meta["multiverse_critical_path_tokens"] == measured.critical_path_tokens
    assert meta["multiverse_parallelism"] == pytest.approx(measured.degree, abs=1e-5)
    assert meta["multiverse_net_parallelism"] == pytest.approx(measured.net, abs=1e-5)
    assert meta["multiverse_forward_steps"] < meta["completion_tokens"]
    injected = [i for start, end in meta["multiverse_injected"] for i in range(start, end)]
    assert injected == _injected(whole, dialect, prompt_len)
    assert answer["text"] == tokenizer.decode(answer["output_ids"][:-1])


def _injected(ids: list[int], dialect: Dialect, prompt_len: int) -> list[int]:
    """Offsets in the output of what the engine writes itself, by the canonical form."""
    found: set[int] = set()
    for block, _ in parse(ids, dialect).walk():
        found |= set(range(block.goal[1], block.region_start))
        for path, (start, end) in zip(block.paths, block.outlines, strict=True):
            label = dialect.label(ids[start + 1 : end])
            assert label is not None
            assert path.close is not None
            found |= set(range(path.start, path.start + len(dialect.path_seed(label))))
            found |= set(range(path.close, path.end))
        found |= set(range(block.region_end, block.region_end + len(dialect.conclusion_seed)))
    return sorted(i - prompt_len for i in found)


def test_streams_what_it_would_return(server: Client, texts: Texts) -> None:
    expected, answer = scripted(server, texts, 9)
    script, prompt_len = texts.make(9)
    events = server.stream(
        script[:prompt_len],
        custom_logit_processor=Forced.to_str(),
        custom_params={"script": script, "eos": texts.eos},
    )
    assert len(events) > 10
    assert events[-1]["output_ids"] == answer["output_ids"] == [*expected, texts.eos]
    assert events[-1]["text"] == answer["text"]
    for earlier, later in itertools.pairwise(events):
        assert later["output_ids"][: len(earlier["output_ids"])] == earlier["output_ids"]
    # The first path streams while the others are under way: no event brings a whole block.
    sizes = [len(e["output_ids"]) for e in events]
    assert max(b - a for a, b in itertools.pairwise(sizes)) < len(expected) / 2


def test_every_length_limit_holds(server: Client, texts: Texts) -> None:
    _script, _ = texts.make(11)
    full, _ = scripted(server, texts, 11)

    def cut(limit: int) -> Any:
        return scripted(server, texts, 11, max_new_tokens=limit)[1]

    limits = range(1, len(full), 3)
    answers = server.at_once((lambda n=n: cut(n)) for n in limits)
    for limit, answer in zip(limits, answers, strict=True):
        ids, meta = answer["output_ids"], answer["meta_info"]
        assert len(ids) == meta["completion_tokens"] <= limit
        assert meta["finish_reason"]["type"] == "length"
        # Open paths are cut where they stand; no token is invented.
        assert _is_cut_of(ids, full), limit
    server.assert_sound()


def _is_cut_of(ids: list[int], full: list[int]) -> bool:
    """Whether ``ids`` is ``full`` with runs left out (the unwritten ends of paths)."""
    at = 0
    for token in ids:
        while at < len(full) and full[at] != token:
            at += 1
        if at == len(full):
            return False
        at += 1
    return True


def test_critical_path_limit(overlap: Client, texts: Texts) -> None:
    _, free = scripted(overlap, texts, 13)
    bound = free["meta_info"]["multiverse_critical_path_tokens"] // 2
    _, answer = scripted(overlap, texts, 13, custom={"multiverse": {"max_critical_path": bound}})
    assert answer["meta_info"]["finish_reason"]["type"] == "length"
    assert answer["meta_info"]["multiverse_critical_path_tokens"] <= bound


@pytest.mark.parametrize("rows", [1, 2])
def test_fewer_live_rows_same_text(overlap: Client, texts: Texts, rows: int) -> None:
    expected, wide = scripted(overlap, texts, 15)
    _, narrow = scripted(overlap, texts, 15, custom={"multiverse": {"max_live_rows": rows}})
    assert narrow["output_ids"] == wide["output_ids"] == [*expected, texts.eos]
    keys = ("multiverse_critical_path_tokens", "multiverse_paths", "multiverse_parallelism")
    assert [narrow["meta_info"][k] for k in keys] == [wide["meta_info"][k] for k in keys]
    steps = "multiverse_forward_steps"
    more = narrow["meta_info"][steps] - wide["meta_info"][steps]
    assert more > 0 if rows == 1 else more >= 0


@pytest.mark.parametrize(
    "limits", [{"max_branches": 1}, {"max_depth": 0}, False], ids=["branches", "depth", "off"]
)
def test_over_a_limit_it_goes_on_sequentially(overlap: Client, texts: Texts, limits: Any) -> None:
    script, prompt_len = texts.make(17)
    answer = overlap.force(
        script[:prompt_len], {"script": script, "eos": texts.eos, "multiverse": limits}
    )
    assert answer["output_ids"] == [*script[prompt_len:], texts.eos]
    meta = answer["meta_info"]
    if limits:
        assert meta["multiverse_forks"] == 0
        assert meta["multiverse_forward_steps"] >= meta["completion_tokens"]
    else:
        assert "multiverse_forks" not in meta


def test_logprobs_are_aligned_and_true(server: Client, texts: Texts) -> None:
    """Of a forced token the processor leaves one choice: its own logprob is 0, any other is not."""
    expected, answer = scripted(
        server, texts, 19, return_logprob=True, top_logprobs_num=2, token_ids_logprob=[3]
    )
    meta = answer["meta_info"]
    assert [entry[1] for entry in meta["output_token_logprobs"]] == answer["output_ids"]
    assert [entry[0] for entry in meta["output_token_logprobs"]] == [0.0] * (len(expected) + 1)
    assert len(meta["output_top_logprobs"]) == len(expected) + 1


def test_aborts_at_any_moment(server: Client, texts: Texts) -> None:
    rng = random.Random(0)
    ids = [f"abort-{i}-" for i in range(24)]

    def ask(i: int) -> str:
        try:
            _, answer = scripted(server, texts, 100 + i, rid=ids[i])
        except ServerError as error:
            return str(error)
        reason: str = answer["meta_info"]["finish_reason"]["type"]
        return reason

    def strike() -> str:
        for _ in range(40):
            time.sleep(0.1)
            server.server.request("/abort_request", {"rid": rng.choice(ids)})
        server.server.request("/abort_request", {"abort_all": True})
        return "done"

    calls = [*((lambda i=i: ask(i)) for i in range(len(ids))), strike]
    results = server.at_once(calls, workers=25)
    assert any("abort" in result.lower() for result in results)
    server.assert_sound()
    expected, answer = scripted(server, texts, 19)
    assert answer["output_ids"] == [*expected, texts.eos]


def test_more_requests_than_memory(tight: Client, texts: Texts) -> None:
    """Trees are retracted and computed anew, and nobody can tell from the text."""
    results = tight.at_once((lambda s=s: scripted(tight, texts, s)) for s in range(200, 240))
    for expected, answer in results:
        assert answer["output_ids"] == [*expected, texts.eos]
    retractions = sum(answer["meta_info"]["num_retractions"] for _, answer in results)
    print(f"\nretractions: {retractions}")
    assert retractions > 0
    tight.assert_sound()


@pytest.mark.parametrize("seed", [None, 7], ids=["unseeded", "seeded"])
def test_siblings_draw_their_own_noise(
    overlap: Client, texts: Texts, dialect: Dialect, seed: int | None
) -> None:
    """Paths with one label see the same tokens at the same positions; sampled, they differ."""
    prompt, first = texts.words[:5], dialect.ordinal(0)
    outline = [dialect[Tag.OUTLINE], *dialect.separator, *first, dialect.colon]
    outline += [*dialect.separator, dialect[Tag.END_OUTLINE], *dialect.separator]
    head = [dialect[Tag.PARALLEL], *dialect.separator, dialect[Tag.GOAL], *dialect.separator]
    script = [*prompt, *head, *outline, *outline, *outline, dialect[Tag.END_GOAL]]
    answer = overlap.force(
        prompt,
        {"script": script, "then": "sample", "eos": texts.eos, "words": texts.words},
        temperature=1.0,
        max_new_tokens=120,
        **({} if seed is None else {"sampling_seed": seed}),
    )
    paths = split(answer["output_ids"], dialect[Tag.PATH])[1:]
    assert len(paths) == 3
    assert len({tuple(path[:20]) for path in paths}) == 3


def split(ids: list[int], at: int) -> list[list[int]]:
    pieces: list[list[int]] = [[]]
    for token in ids:
        if token == at:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def test_bad_options_are_refused(overlap: Client) -> None:
    for value in ({"max_branches": -1}, {"paths": 3}, 7):
        with pytest.raises(ServerError, match="multiverse"):
            overlap.generate([5, 6, 7], custom_params={"multiverse": value})


def test_a_prompt_inside_a_block_is_refused(
    overlap: Client, texts: Texts, dialect: Dialect
) -> None:
    script, _ = texts.make(5)
    inside = parse(script, dialect).blocks[0].paths[0].start + 3
    with pytest.raises(ServerError, match="inside a parallel block"):
        overlap.generate(script[:inside], custom_params={"multiverse": {"structure": "all"}})


def test_without_the_flag_nothing_changes(
    bare: Client, stock: Client, overlap: Client, texts: Texts
) -> None:
    """Plain requests: the same ids and logprobs without the package, with it installed, with the
    plugin on, and switched off by the request."""
    prompts = [texts.make(seed)[0][:9] for seed in range(20)]

    def ask(client: Client, prompt: list[int], **body: Any) -> Any:
        answer = client.generate(prompt, max_new_tokens=24, return_logprob=True, **body)
        meta = answer["meta_info"]
        return answer["output_ids"], meta["output_token_logprobs"], meta["finish_reason"]

    def ask_all(client: Client, **body: Any) -> list[Any]:
        client.forget()
        return [ask(client, prompt, **body) for prompt in prompts]

    plain = ask_all(bare)
    assert ask_all(stock) == plain
    assert ask_all(overlap) == plain
    assert ask_all(overlap, custom_params={"multiverse": False}) == plain
    assert "multiverse_forks" not in stock.generate(prompts[0])["meta_info"]


def test_layout_of_the_output_is_the_engines(overlap: Client, texts: Texts, dialect: Dialect):
    script, prompt_len = texts.make(21)
    _, answer = scripted(overlap, texts, 21)
    laid = layout([*script[:prompt_len], *answer["output_ids"]], dialect)
    critical = answer["meta_info"]["multiverse_critical_path_tokens"]
    assert laid.critical_path - prompt_len == critical
