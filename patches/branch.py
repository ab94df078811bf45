"""The scheduler side of a node: its request object and its KV slots.

Touches ``managers.schedule_batch.Req`` and ``ReqKvInfo`` (constructed, and an attribute
``multiverse`` set on ``Req``): SGLang has no notion of a row that belongs to another request.
Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import copy
import hashlib
from array import array
from dataclasses import dataclass, field
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import Req, ReqKvInfo

from ..engine.tree import Node, State, Tree


@dataclass(eq=False)
class Branch:
    """What the scheduler holds for one :class:`~sglang_multiverse.engine.tree.Node`.

    Attributes:
        req: the request object of its row; None while a path is queued.
        slots: KV slots of the node's own tokens while it has no row, shape ``(written,)``, int64.
        ahead: tokens of the node that a row opened for the same batch will write.
        protected: leading slots of the trunk that the prefix cache owns.
        pulled: entries of ``req.logprob`` already moved to ``node.records``.
        unfilled: indices of own sampled tokens whose logprob entry has not been pulled.
    """

    tree: Tree
    node: Node
    req: Req | None = None
    slots: torch.Tensor | None = None
    ahead: int = 0
    protected: int = 0
    pulled: int = 0
    unfilled: list[int] = field(default_factory=list)

    @property
    def root(self) -> Branch:
        branch: Branch = self.tree.root.handle
        return branch

    @property
    def is_trunk(self) -> bool:
        return self.node.parent is None

    @property
    def live(self) -> bool:
        """Whether a row of the page table is its own."""
        return self.req is not None and self.req.kv.holds_kv

    def row_tokens(self) -> list[int]:
        """Ids of every token visible to the node's next one, in row order."""
        parent = self.node.parent
        above = [] if parent is None else parent.handle.row_tokens()[: self.node.base]
        return above + self.node.tokens


class Scratch:
    """Marks a request that only writes KV: its row is given back after one forward and its sample
    is thrown away. ``delta`` is row index minus position."""

    def __init__(self, delta: int):
        self.delta = delta


def branch_of(req: Req) -> Branch | None:
    mark = req.__dict__.get("multiverse")
    return mark if isinstance(mark, Branch) else None


def delta_of(req: Req) -> int:
    """Row index minus position of the tokens ``req`` computes next."""
    mark = req.__dict__.get("multiverse")
    if mark is None:
        return 0
    if isinstance(mark, Scratch):
        return mark.delta
    return int(mark.node.delta)


def decodes(req: Req) -> bool:
    """Whether the row of ``req`` takes part in decoding."""
    mark = req.__dict__.get("multiverse")
    if mark is None:
        return True
    return isinstance(mark, Branch) and mark.node.state is State.RUNNING


def _bare_request(rid: str, root: Req, tokens: list[int], *, sampling_params: Any) -> Req:
    logs = root.return_logprob
    req = Req(
        rid,
        "",
        array("q", tokens),
        sampling_params,
        return_logprob=logs,
        top_logprobs_num=root.logprob.top_logprobs_num if logs else 0,
        token_ids_logprob=root.logprob.token_ids_logprob if logs else None,
        sampling_logprobs_mode=root.sampling_logprobs_mode,
        stream=False,
        lora_id=root.lora_id,
        custom_logit_processor=root.custom_logit_processor,
        eos_token_ids=root.eos_token_ids,
        vocab_size=root.vocab_size,
        priority=root.priority,
        extra_key=root.extra_key if root.lora_id is None else None,
        cache_salt=root.cache_salt,
        http_worker_ipc=root.http_worker_ipc,
    )
    req.tokenizer = root.tokenizer
    req.skip_radix_cache_insert = True
    req.logprob_start_len = -1
    # Already counted with the trunk: never reported as cache hits of their own.
    req.retracted_stain = True
    return req


def path_request(branch: Branch) -> Req:
    """The request object of a path; never shown to the client."""
    tree, node = branch.tree, branch.node
    root = branch.root.req
    assert root is not None
    params = copy.copy(root.sampling_params)
    # The tree's own budget ends it first; this only keeps admission estimates sane.
    params.max_new_tokens = tree.max_new_tokens - tree.total + len(node.tokens) + 1
    params.min_new_tokens = 0
    if params.sampling_seed is not None:
        # Seeded noise is keyed by (seed, position), and siblings share positions.
        digest = hashlib.sha256(f"{params.sampling_seed}/{node.key}/{node.base}".encode()).digest()
        params.sampling_seed = int.from_bytes(digest[:8], "little") >> 1
    req = _bare_request(f"{root.rid}", root, branch.row_tokens(), sampling_params=params)
    req.multiverse = branch
    return req


def scratch_request(branch: Branch, tokens: list[int], delta: int) -> Req:
    """A request that writes the KV of the last of ``tokens`` and samples nothing."""
    root = branch.root.req
    assert root is not None
    params = copy.copy(root.sampling_params)
    params.max_new_tokens = 1
    req = _bare_request(root.rid, root, tokens, sampling_params=params)
    req.return_logprob = False
    req.multiverse = Scratch(delta)
    return req


def fresh_kv(req: Req) -> ReqKvInfo:
    """Detach and return the KV record of ``req``, leaving it one that holds nothing."""
    old, req.kv = req.kv, ReqKvInfo()
    return old
