"""Structured KV in the prefix cache, under keys that name the layout.

Targets: ``mem_cache.common._req_radix_key`` (the key a waiting request is looked up by) and
``UnifiedRadixCache.checkpoint`` (inserts what a request has computed, under its token ids). SGLang
keys KV by tokens alone; its ``extra_key`` would cut a text off from the causal prefix it shares
with others. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from array import array
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import FINISH_ABORT
from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache
from sglang.srt.plugins.hook_registry import HookType

from ...engine.cache_key import TOKEN_BITS
from ...layout import segments
from ..hooks import Hook
from ..rows.branch import Branch, branch_of


def keeps_structured(scheduler: Any) -> bool:
    """Whether the server's prefix cache can hold structured KV.

    Events of the cache tell others its keys, which must be token ids then.
    """
    return (
        type(scheduler.tree_cache) is UnifiedRadixCache
        and not scheduler.server_args.kv_events_config
        and scheduler.model_config.vocab_size < 1 << TOKEN_BITS
    )


def offer(root: Branch) -> None:
    """The trunk has ended by itself: let stock code insert all of it as it releases its row."""
    req = root.req
    assert req is not None
    if not root.cacheable or isinstance(req.finished_reason, FINISH_ABORT):
        return
    if root.tree.forked:
        root.lay_out(segments(root.tree.trace()[1]))
    req.skip_radix_cache_insert = False


def adopt(tree_cache: Any, root: Branch, key: array[int], limit: int) -> torch.Tensor:
    """Lock the cached prefix of ``key``, at most ``limit`` tokens, for ``root``.

    Returns:
        Its slots, shape ``(hit,)``, int64. The lock goes as any lock of the trunk's does.
    """
    req = root.req
    assert req is not None and req.lock is None
    radix_key = RadixKey(key, req.extra_key, limit=limit, cache_salt=req.cache_salt)
    found = tree_cache.match_prefix(MatchPrefixParams(key=radix_key, req=req))
    hit = found.device_prefix_len
    if not hit:
        return torch.empty(0, dtype=torch.int64)
    req.last_node, req.prefix_len = found.last_device_node, hit
    req.lock = tree_cache.lock(found.last_device_node)
    slots: torch.Tensor = tree_cache.prefix_device_indices(req)
    return slots.to(torch.int64, copy=True)


def _key(
    original: Any, tree_cache: Any, req: Any, token_ids: Any, max_prefix_len: int | None = None
) -> Any:
    branch = branch_of(req)
    if branch is not None:
        token_ids = branch.key(token_ids)
    return original(tree_cache, req, token_ids, max_prefix_len)


def _checkpoint(original: Any, cache: Any, req: Any, *, up_to: int, **kwargs: Any) -> Any:
    branch = branch_of(req)
    if branch is None or branch.layout is None:
        return original(cache, req, up_to=up_to, **kwargs)
    ids, prompt = req.full_untruncated_fill_ids, req.origin_input_ids
    key = branch.key(ids)
    req.full_untruncated_fill_ids, req.origin_input_ids = key, key[: len(prompt)]
    try:
        return original(cache, req, up_to=up_to, **kwargs)
    finally:
        req.full_untruncated_fill_ids, req.origin_input_ids = ids, prompt


HOOKS = (
    Hook(
        "sglang.srt.mem_cache.common._req_radix_key",
        HookType.AROUND,
        _key,
        ("tree_cache", "req", "token_ids", "max_prefix_len"),
    ),
    Hook(
        "sglang.srt.mem_cache.unified_radix_cache.UnifiedRadixCache.checkpoint",
        HookType.AROUND,
        _checkpoint,
        ("self", "req"),
    ),
)
