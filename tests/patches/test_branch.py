"""Requests of paths: their seeds down to the sampler's tensors, their share of the budget."""

from __future__ import annotations

import os
from array import array
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang", reason="the serve extra is not installed")
os.environ.setdefault("SGLANG_PLATFORM", "torch_cpu")

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.sampling import sampling_batch_info
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
from sglang.srt.sampling.sampling_params import SamplingParams

from sglang_multiverse.dialect import Tag
from sglang_multiverse.engine.options import EngineOptions
from sglang_multiverse.engine.tree import Tree
from sglang_multiverse.patches.rows import branch as module
from sglang_multiverse.patches.rows.branch import Branch, path_request

from ..core.generate import DIALECT, WORD


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under ``--enable-deterministic-inference``."""
    features = SimpleNamespace(enable_custom_logit_processor=False, enable_watermark=False)
    context = SimpleNamespace(
        deterministic=SimpleNamespace(enable_deterministic_inference=True), features=features
    )
    for user in (module, sampling_batch_info):
        monkeypatch.setattr(user, "get_exec", lambda: context)


def paths(seed: int | None, budget: int = 1000, outlines: int = 4) -> list[Req]:
    """The requests of the paths of one fork."""
    tree = Tree([WORD], DIALECT, EngineOptions(), budget)
    params = SamplingParams(temperature=1.0, sampling_seed=seed, max_new_tokens=budget)
    params.normalize(None)
    root = Req("r", "", array("q", [WORD]), params, eos_token_ids={2}, vocab_size=100_000)
    root.tokenizer = SimpleNamespace(additional_stop_token_ids=None, eos_token_id=2)
    tree.root.handle = Branch(tree, tree.root, req=root)
    outline = [DIALECT[Tag.OUTLINE], WORD, DIALECT[Tag.END_OUTLINE]]
    goal = [DIALECT[Tag.PARALLEL], DIALECT[Tag.GOAL], *outlines * outline, DIALECT[Tag.END_GOAL]]
    for token in goal:
        tree.accept(tree.root, token)
    for kid in tree.root.kids:
        kid.handle = Branch(tree, kid)
    return [path_request(kid.handle) for kid in tree.root.kids]


def seeds_at_the_sampler(reqs: list[Req]) -> list[int]:
    batch: Any = type("Batch", (), {})()
    batch.reqs, batch.device = reqs, "cpu"
    info = SamplingBatchInfo.from_schedule_batch(batch, vocab_size=100_000)
    assert info.sampling_seed is not None
    return list(info.sampling_seed.tolist())


@pytest.mark.parametrize("seed", [None, 7])
def test_siblings_have_seeds_of_their_own(deterministic: None, seed: int | None) -> None:
    found = seeds_at_the_sampler(paths(seed))
    assert len(set(found)) == 4
    assert found == seeds_at_the_sampler(paths(seed))
    assert not set(found) & {42, 7}


def test_requests_with_other_seeds_draw_other_noise(deterministic: None) -> None:
    assert not set(seeds_at_the_sampler(paths(7))) & set(seeds_at_the_sampler(paths(8)))


def test_paths_share_what_is_left(deterministic: None) -> None:
    reqs = paths(None, budget=1000)
    room = [req.sampling_params.max_new_tokens - len(req.output_ids) for req in reqs]
    assert sum(room) <= 1000
    assert min(room) > 200


def test_siblings_hold_one_copy_of_what_they_see(deterministic: None) -> None:
    reqs = paths(None)
    assert all(req.origin_input_ids is reqs[0].origin_input_ids for req in reqs)
    assert all(list(req.output_ids) for req in reqs)
