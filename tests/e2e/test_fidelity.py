"""What was trained is what is served: the engine's logits equal the trainer's forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.layout import Layout, layout
from sglang_multiverse.sequencer import UNLIMITED, Limits
from sglang_multiverse.structure import parse

from ..core.oracle import addresses_of, heights, visible
from .client import Client
from .script import read_rows, starts
from .texts import Texts

pytestmark = pytest.mark.weights("random")

TOLERANCE = 1e-5


def logprobs(model: Any, ids: Sequence[int], laid: Layout) -> torch.Tensor:
    """The trainer's log-probabilities after every token, shape ``(length, vocabulary)``."""
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([list(ids)]),
            position_ids=torch.tensor(laid.position)[None],
            multiverse_order=torch.tensor(laid.order, dtype=torch.int32)[None],
            use_cache=False,
        ).logits
    return logits[0].log_softmax(-1)


def gap(model: Any, ids: list[int], laid: Layout, dialect: Dialect, record: Path, limits: Limits):
    """Greatest difference between recorded rows and the trainer's, and how many rows there are."""
    expected = logprobs(model, ids, laid)
    where = starts(parse(ids, dialect, limits=limits))
    rows = read_rows(str(record))
    sampled = {(key, own): token for key, own, token, _ in rows}
    worst, count = 0.0, 0
    for key, own, _, logits in rows:
        at = where[key] + own if key in where else len(ids) + 1
        if at > len(ids) or sampled.get((key, own - 1), ids[at - 1]) != ids[at - 1]:
            continue  # computed in vain, after a token that the text does not hold
        row = torch.tensor(logits).log_softmax(-1)
        worst = max(worst, float((row - expected[at - 1]).abs().max()))
        count += 1
    return worst, count


def write(client: Client, texts: Texts, seed: int, record: Path, **custom: Any) -> list[int]:
    """Have the engine write a random text; returns what it wrote, prompt first."""
    script, prompt_len = texts.make(seed)
    prompt = script[:prompt_len]
    answer = client.force(
        prompt, {"script": script, "eos": texts.eos, "record": str(record), **custom}
    )
    assert answer["output_ids"] == [*script[prompt_len:], texts.eos]
    return [*prompt, *answer["output_ids"]]


def test_scripted_texts_alone_and_among_twenty(
    server: Client, texts: Texts, dialect: Dialect, random_model: Any, tmp_path: Path
) -> None:
    seeds = range(60)
    alone, crowd = list(seeds)[:12], list(seeds)[12:]
    written = [write(server, texts, seed, tmp_path / str(seed)) for seed in alone]
    written += server.at_once(
        (lambda s=seed: write(server, texts, s, tmp_path / str(s))) for seed in crowd
    )
    results = [
        gap(random_model, ids, layout(ids, dialect), dialect, tmp_path / str(seed), UNLIMITED)
        for seed, ids in zip(seeds, written, strict=True)
    ]
    worst = max(difference for difference, _ in results)
    rows = sum(count for _, count in results)
    depths = [parse(ids, dialect).depth for ids in written]
    print(
        f"\nfidelity: {len(written)} texts, {rows} rows, depth up to {max(depths)}: "
        f"max |Δ logprob| {worst:.2e}"
    )
    assert max(depths) == 3
    assert rows > 3000
    assert worst <= TOLERANCE


def test_the_trainer_agrees_with_a_mask_built_by_brute_force(
    texts: Texts, dialect: Dialect, random_model: Any
) -> None:
    ids, _ = texts.make(7)
    laid = layout(ids, dialect)
    seen = visible(addresses_of(parse(ids, dialect)))
    assert heights(seen) == list(laid.position)
    with torch.no_grad():
        dense = (
            random_model(
                input_ids=torch.tensor([ids]),
                position_ids=torch.tensor(heights(seen))[None],
                attention_mask=torch.tensor(seen)[None, None],
                use_cache=False,
            )
            .logits[0]
            .log_softmax(-1)
        )
    assert float((dense - logprobs(random_model, ids, laid)).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("wrong", ["causal mask", "index positions", "next separator"])
def test_a_wrong_mask_or_position_would_be_seen(
    overlap: Client,
    texts: Texts,
    dialect: Dialect,
    random_model: Any,
    tmp_path: Path,
    wrong: str,
) -> None:
    record = tmp_path / "rows"
    ids = write(overlap, texts, 5, record)
    laid = layout(ids, dialect)
    index = np.arange(len(ids))
    if wrong == "causal mask":
        laid = Layout(position=laid.position, order=index)
    elif wrong == "index positions":
        laid = Layout(position=index, order=laid.order)
    else:  # the rule of the published trainer: <Path> at the position after </Goal>
        late = laid.left_hidden.cumsum() > 0
        laid = Layout(position=laid.position - late, order=laid.order)
    worst, _ = gap(random_model, ids, laid, dialect, record, UNLIMITED)
    assert worst > 100 * TOLERANCE


def test_whatever_a_model_may_emit(
    every: Client, texts: Texts, dialect: Dialect, random_model: Any, tmp_path: Path
) -> None:
    """Tags in any order, ends of text inside paths, thoughts closed too early, length limits."""
    limits = Limits(max_branches=3, max_depth=2)
    outline = [dialect[Tag.OUTLINE], texts.words[0], dialect[Tag.END_OUTLINE]]
    opening = [dialect[Tag.PARALLEL], dialect[Tag.GOAL], *outline, *outline, dialect[Tag.END_GOAL]]
    soup = {
        "opening": opening,
        "tags": list(dialect.tag_ids),
        "closers": 2 * [dialect[Tag.END_PATH]],
        "words": texts.words[:12],
        "eos": texts.eos,
        "multiverse": {"max_branches": 3, "max_depth": 2},
    }

    def emit(seed: int) -> list[int]:
        prompt = texts.words[seed : seed + 5]
        limit = 60 + 9 * seed
        answer = every.force(
            prompt,
            {**soup, "soup": seed, "record": str(tmp_path / f"soup{seed}")},
            max_new_tokens=limit,
        )
        ids, meta = answer["output_ids"], answer["meta_info"]
        assert meta["completion_tokens"] == len(ids) <= limit
        forks.append(meta["multiverse_forks"])
        finished.add(meta["finish_reason"]["type"])
        return [*prompt, *ids]

    forks: list[int] = []
    finished: set[str] = set()
    seeds = range(40)
    written = every.at_once((lambda s=seed: emit(s)) for seed in seeds)
    compared, worst = 0, 0.0
    for seed, ids in zip(seeds, written, strict=True):
        trace = parse(ids, dialect, limits=limits)
        if any(not block.joined for block in trace.blocks):
            continue  # cut inside a block: the next test's matter
        laid = layout(ids, dialect, limits=limits)
        difference, rows = gap(random_model, ids, laid, dialect, tmp_path / f"soup{seed}", limits)
        worst, compared = max(worst, difference), compared + rows
    print(f"\nsoup: {sum(forks)} forks, {compared} rows, max |Δ logprob| {worst:.2e}")
    assert sum(forks) >= 20
    assert finished == {"stop", "length"}
    assert compared > 500
    assert worst <= TOLERANCE


def test_prompts_that_hold_finished_blocks(
    every: Client, texts: Texts, dialect: Dialect, random_model: Any, tmp_path: Path
) -> None:
    """A conversation goes on after a parallel answer: its text is laid out as it was made."""
    worst = 0.0
    for seed in range(8):
        script, _ = texts.make(seed, blocks=2, depth=2)
        first = parse(script, dialect).blocks[0]
        cut = first.end + 1
        record = tmp_path / f"prompt{seed}"
        answer = every.force(
            script[:cut],
            {
                "script": script,
                "eos": texts.eos,
                "record": str(record),
                "multiverse": {"structure": "all"},
            },
        )
        assert answer["output_ids"] == [*script[cut:], texts.eos]
        assert answer["meta_info"]["prompt_tokens"] == cut
        difference, rows = gap(
            random_model, script, layout(script, dialect), dialect, record, UNLIMITED
        )
        assert rows > 10
        worst = max(worst, difference)
    print(f"\nfinished blocks in the prompt: max |Δ logprob| {worst:.2e}")
    assert worst <= TOLERANCE
