"""Rows that could not be launched are as they were before, and can be launched again."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("sglang", reason="the serve extra is not installed")
os.environ.setdefault("SGLANG_PLATFORM", "torch_cpu")

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.sampling.sampling_params import SamplingParams

from sglang_multiverse.dialect import Tag
from sglang_multiverse.engine.options import EngineOptions
from sglang_multiverse.engine.sharing import reached, runs
from sglang_multiverse.engine.tree import Outcome, State, Tree
from sglang_multiverse.patches.rows.branch import Branch
from sglang_multiverse.patches.rows.launch import LaunchError, Resume, Seed, Tail, launch
from sglang_multiverse.patches.rows.sharing import ShareRow

from ..core.generate import DIALECT, WORD


class Pool:
    """Rows without memory behind them."""

    def bind(self, req: Any, *, prefix_len: int, protected: int) -> None:
        pass


@dataclass
class Bad:
    """A row of another request that cannot be opened."""

    branch: Any = None
    starts: bool = False

    def open(self, pool: Any) -> Any:
        raise RuntimeError("asked for")

    def undo(self) -> None:
        pass


def forked(share_every: int | None = None) -> Branch:
    """A trunk that has forked into two paths, both running, or about to share."""
    tree = Tree([WORD], DIALECT, EngineOptions(share_every=share_every), 1000)
    params = SamplingParams(max_new_tokens=1000, sampling_seed=7)
    params.normalize(None)
    req = Req("r", "", array("q", [WORD]), params, eos_token_ids={2}, vocab_size=100_000)
    req.tokenizer = SimpleNamespace(additional_stop_token_ids=None, eos_token_id=2)
    trunk = tree.root.handle = Branch(tree, tree.root, req=req)
    outline = [DIALECT[Tag.OUTLINE], WORD, DIALECT[Tag.END_OUTLINE]]
    for token in [DIALECT[Tag.PARALLEL], DIALECT[Tag.GOAL], *outline, *outline]:
        tree.accept(tree.root, token)
        req.output_ids.append(token)
    assert tree.accept(tree.root, DIALECT[Tag.END_GOAL]) is Outcome.FORK
    req.output_ids.append(DIALECT[Tag.END_GOAL])
    trunk.slots = torch.arange(len(tree.root.tokens))
    for kid in tree.root.kids:
        kid.handle = Branch(tree, kid)
        if share_every is not None:
            kid.handle.slots = torch.arange(0)
            continue
        Seed(kid.handle).open(Pool())
        kid.handle.slots = torch.arange(len(kid.tokens))
    return trunk


def fails(rows: list[Any]) -> None:
    with pytest.raises(LaunchError):
        launch(None, Pool(), [*rows, Bad()])


def test_a_join_beside_a_row_that_fails_is_launched_later() -> None:
    trunk = forked()
    tree = trunk.tree
    for kid in tree.root.kids:
        assert tree.accept(kid, DIALECT[Tag.END_PATH]) is Outcome.END_PATH
    kids = tree.join(tree.root)
    assert kids is not None
    ends = [Tail(kid.handle) for kid in kids]
    rows = [*ends, Resume(trunk, kids)]
    for _ in range(3):
        fails(rows)
        assert tree.root.state is State.RESUMING
    for row, kid in zip(ends, kids, strict=True):
        req = row.open(Pool())
        assert req.origin_input_ids[kid.base :] == kid.tokens
    # Once it is launched, the paths of its next fork see the paths of this one.
    rows[-1].open(Pool())
    assert trunk.context is None


def test_paths_that_share_are_launched_later_beside_a_row_that_fails() -> None:
    """Once before they have a row of their own, and once when they have had one."""
    trunk = forked(share_every=2)
    tree, every = trunk.tree, 2
    first, second = tree.root.kids
    for kid in (first, second):
        kid.handle.slots = torch.arange(2 * ((len(kid.tokens) - 1) // 2))
    for _ in range(2):
        rows = [
            ShareRow(kid.handle, run)
            for kid in (first, second)
            for run in runs(kid, len(kid.handle.slots), reached(tree.root, every), every)
        ]
        before = [
            (kid.base, kid.delta, kid.handle.req, kid.handle.shared) for kid in tree.root.kids
        ]
        for _ in range(3):
            fails(rows)
            for kid, was in zip((first, second), before, strict=True):
                assert (kid.base, kid.delta, kid.handle.req, kid.handle.shared) == was
                assert kid.state is State.SHARING
        for row, (kid, other) in zip(rows, ((first, second), (second, first)), strict=True):
            req = row.open(Pool())
            seen = row.run.seen
            assert [sibling for sibling, _ in seen] == [other]
            count = seen[0][1]
            ids = tree.root.tokens + other.tokens[:count]
            assert req.origin_input_ids == ids
            assert req.output_ids == kid.tokens
            assert kid.base == len(ids) and kid.delta == tree.root.delta + count
            assert kid.handle.req is req
        for kid in (first, second):  # on to the end of the chunk
            while True:
                tree.accept(kid, WORD)
                if tree.share(kid) is Outcome.SHARE:
                    break
            kid.handle.slots = torch.arange(kid.stale)
