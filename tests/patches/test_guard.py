"""The guard's device side, driven as a scheduler drives it: rows launched, sampled and reused."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang", reason="the serve extra is not installed")
os.environ.setdefault("SGLANG_PLATFORM", "torch_cpu")

import torch

from sglang_multiverse.dialect import Tag
from sglang_multiverse.engine.guard import FREE
from sglang_multiverse.engine.options import EngineOptions
from sglang_multiverse.engine.tree import State, Tree
from sglang_multiverse.patches.hooks import problems
from sglang_multiverse.patches.rows import guard
from sglang_multiverse.patches.rows.branch import Branch
from sglang_multiverse.patches.rows.guard import Guard

from ..core.generate import DIALECT, NEWLINE, WORD

EOS, VOCABULARY = 99, 100
OUTLINE = [Tag.OUTLINE, NEWLINE, Tag.END_OUTLINE, NEWLINE]


def made() -> Guard:
    return Guard(DIALECT, [EOS, 5_000], VOCABULARY, 8, "cpu")


def request(row: int, prompt: list[int], *, guarded: bool = True) -> Any:
    options = EngineOptions(tag_guard=guarded)
    tree = Tree([int(token) for token in prompt], DIALECT, options, 1000)
    req = SimpleNamespace(kv=SimpleNamespace(req_pool_idx=row), output_ids=[])
    req.multiverse = tree.root.handle = Branch(tree, tree.root, req=req)  # type: ignore[arg-type]
    return req


def allowed(guard: Guard, *rows: int) -> list[set[int]]:
    """Tags and ends of text that each row may sample."""
    logits = torch.zeros(len(rows), VOCABULARY)
    guard.mask(logits, torch.tensor(rows))
    assert not torch.isneginf(logits[:, [WORD, NEWLINE]]).any()
    special = [*DIALECT.tag_ids, EOS]
    return [{i for i in special if not torch.isneginf(row[i])} for row in logits]


def sample(guard: Guard, rows: list[int], tokens: list[int]) -> None:
    guard.advance(torch.tensor(rows), torch.tensor(tokens, dtype=torch.int32))


def test_every_target_is_as_expected() -> None:
    assert problems(guard.HOOKS) == []


def test_a_row_is_followed_without_the_host() -> None:
    guard = made()
    assert guard.launch([request(3, [WORD])])
    assert allowed(guard, 3) == [{Tag.THINK, Tag.PARALLEL, EOS}]
    for token in (Tag.THINK, NEWLINE, WORD, Tag.PARALLEL, NEWLINE, Tag.GOAL):
        sample(guard, [3], [token])
        assert guard.launch([])
    assert allowed(guard, 3) == [{Tag.OUTLINE}]
    for token in [*OUTLINE, *OUTLINE]:
        sample(guard, [3], [token])
    assert allowed(guard, 3) == [{Tag.OUTLINE, Tag.END_GOAL}]


def test_rows_that_are_not_guarded_share_the_batch() -> None:
    guard = made()
    assert not guard.launch([request(1, [WORD], guarded=False)])
    guard.launch([request(2, [WORD]), request(4, [WORD], guarded=False)])
    free, bound, other = allowed(guard, 1, 2, 4)
    assert free == other == {*DIALECT.tag_ids, EOS}
    assert bound == {Tag.THINK, Tag.PARALLEL, EOS}
    sample(guard, [1, 2, 4], [Tag.THINK, Tag.THINK, Tag.GOAL])
    assert allowed(guard, 1, 2, 4)[1] == {Tag.PARALLEL, Tag.END_THINK}
    assert allowed(guard, 4) == [{*DIALECT.tag_ids, EOS}]


def test_the_sample_of_a_chunk_is_forgotten() -> None:
    """A prompt in chunks: each launch sets the state anew, whatever the last one sampled."""
    guard, req = made(), request(0, [WORD] * 9)
    for token in (Tag.GOAL, Tag.THINK, WORD):
        guard.launch([req])
        sample(guard, [0], [token])
    guard.launch([req])
    assert allowed(guard, 0) == [{Tag.THINK, Tag.PARALLEL, EOS}]


def test_a_row_that_is_extended_again_goes_on_where_its_tokens_end() -> None:
    """After a retraction the row is another one, and what was in flight was thrown away."""
    guard, req = made(), request(0, [WORD])
    guard.launch([req])
    for token in (Tag.THINK, WORD, Tag.PARALLEL):
        req.output_ids.append(int(token))
        sample(guard, [0], [token])
    sample(guard, [0], [Tag.GOAL])  # in flight when the row was taken away
    req.kv.req_pool_idx = 6
    guard.launch([req])
    assert allowed(guard, 6) == [{Tag.GOAL}]
    assert allowed(guard, 0) == [{*DIALECT.tag_ids, EOS}]


@pytest.mark.parametrize("how", ["parked", "over", "reused", "released"])
def test_a_row_that_ends_is_free_again(how: str) -> None:
    guard, req = made(), request(5, [WORD])
    assert guard.launch([req])
    if how == "parked":
        req.multiverse.node.state = State.FORKED
    elif how == "over":
        req.multiverse.tree.over = True
    elif how == "released":
        req.kv.req_pool_idx = None
    others = [SimpleNamespace(kv=SimpleNamespace(req_pool_idx=5))] if how == "reused" else []
    assert not guard.launch(others)  # type: ignore[arg-type]
    assert int(guard._states[5]) == FREE


def test_a_prompt_that_leaves_a_thought_open() -> None:
    guard = made()
    guard.launch([request(0, [WORD, Tag.THINK, NEWLINE])])
    assert allowed(guard, 0) == [{Tag.PARALLEL, Tag.END_THINK}]


def test_a_row_with_nothing_left_is_left_alone() -> None:
    guard = made()
    guard.launch([request(0, [WORD]), request(1, [WORD])])
    logits = torch.full((2, VOCABULARY), float("-inf"))
    logits[0, Tag.END_PATH] = 1.0  # forbidden, and all there is
    logits[1, [Tag.END_PATH, WORD]] = 1.0
    guard.mask(logits, torch.tensor([0, 1]))
    assert logits[0, Tag.END_PATH] == 1.0
    assert torch.isneginf(logits[1, Tag.END_PATH])
    assert logits[1, WORD] == 1.0
