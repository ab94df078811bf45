"""The scheduler side of a node: its request object and its KV slots.

Touches ``managers.schedule_batch.Req`` and ``ReqKvInfo`` (constructed, and an attribute
``multiverse`` set on ``Req``): SGLang has no notion of a row that belongs to another request.
Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import copy
import hashlib
from array import array
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import Req, ReqKvInfo
from sglang.srt.runtime_context import get_exec

from ...engine.cache_key import cache_key
from ...engine.tree import Node, State, Tree
from ...layout import Segment

#: What ``SamplingBatchInfo.from_schedule_batch`` seeds a request with that names no seed.
DEFAULT_SEED = 42
#: End of a segment that goes on as the text does.
ENDLESS = 1 << 62


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
        context: ids a path's tokens see before its own, shared by the requests of all siblings;
            kept by the node that forked.
        ended_by: the caller's stop that this node ran into, as SGLang's finish reason.
        layout: segments of a trunk whose KV is not causal throughout, as far as they are known; the
            last one goes on. None for paths, and for trunks that have no blocks or have them open.
        cacheable: whether the prefix cache may take the KV of this trunk.
        shared: ids of siblings' tokens in a path's row, between those above it and its own.
        asked: own tokens of a path that shares for which rows have been queued.
        told: what the client is told of the tree's paths, of a trunk whose request asks for it.
    """

    tree: Tree
    node: Node
    req: Req | None = None
    slots: torch.Tensor | None = None
    ahead: int = 0
    protected: int = 0
    pulled: int = 0
    unfilled: list[int] = field(default_factory=list)
    context: array[int] | None = None
    ended_by: Any = None
    layout: list[Segment] | None = None
    cacheable: bool = False
    shared: array[int] | None = None
    asked: int = 0
    told: Any = None
    _key: array[int] | None = None

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

    def above(self) -> array[int]:
        """Ids of every token visible to the node's own, in row order."""
        above = self.above_all()
        return above + self.shared if self.shared else above

    def above_all(self) -> array[int]:
        """Ids of every token that the node and all its siblings see."""
        parent = self.node.parent
        if parent is None:
            return array("q")
        holder: Branch = parent.handle
        if holder.context is None:
            holder.context = array("q")
            for node in parent.lineage():
                holder.context += node.tokens
        return holder.context

    def lay_out(self, segments: list[Segment]) -> None:
        """Set :attr:`layout`; what follows the last of ``segments`` is causal text."""
        *before, last = segments
        self.layout = [*before, replace(last, end=ENDLESS)]
        self._key = None

    def key(self, tokens: array[int]) -> array[int]:
        """What ``tokens``, the first of the trunk's text, are called in the prefix cache."""
        if self.layout is None:
            return tokens
        # Asked for again and again while a request waits, with the same tokens.
        if self._key is None or len(self._key) != len(tokens):
            self._key = cache_key(tokens, self.layout)
        return self._key

    def catch_up(self, *, but_last: int = 0) -> None:
        """Hand the trunk's newest outputs to its node.

        A trunk's tokens that are no tags stay with its request until somebody needs them.
        """
        node, req = self.node, self.req
        if node.parent is not None or node.state is not State.RUNNING or req is None:
            return
        have = len(node.tokens) - self.tree.prompt_len
        new = req.output_ids[have : len(req.output_ids) - but_last]
        if new:
            self.tree.take(node, new)


@dataclass(eq=False)
class Scratch:
    """Marks a request that only writes KV: its row is given back after one forward and its sample
    is thrown away.

    Attributes:
        delta: row index minus position of its tokens.
        layout: their segments, where one row holds several; ``delta`` counts for nothing then.
    """

    delta: int
    layout: list[Segment] | None = None


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


def layout_of(req: Req) -> list[Segment] | None:
    """The segments of the text in the row of ``req``, where it is not one causal run."""
    mark = req.__dict__.get("multiverse")
    return mark.layout if isinstance(mark, Branch | Scratch) else None


def forked(req: Req) -> bool:
    """Whether the row of ``req`` is one of a tree's."""
    mark = req.__dict__.get("multiverse")
    return isinstance(mark, Scratch) or (isinstance(mark, Branch) and mark.tree.forked)


def decodes(req: Req) -> bool:
    """Whether the row of ``req`` takes part in decoding."""
    mark = req.__dict__.get("multiverse")
    if mark is None:
        return True
    return isinstance(mark, Branch) and mark.node.state is State.RUNNING


def _bare_request(root: Req, ids: array[int], params: Any, *, logprobs: bool) -> Req:
    logs = logprobs and root.return_logprob
    req = Req(
        root.rid,
        "",
        ids,
        params,
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
    # Deadlines are the request's.
    req.time_stats.forward_entry_time = root.time_stats.forward_entry_time
    return req


def path_request(branch: Branch) -> Req:
    """The request object of a path; never shown to the client."""
    tree, node = branch.tree, branch.node
    root = branch.root.req
    assert root is not None
    params = copy.copy(root.sampling_params)
    # The tree's own budget ends it first; this keeps the estimates of admission sane.
    params.max_new_tokens = len(node.tokens) + share(tree)
    params.sampling_seed = path_seed(params.sampling_seed, node)
    req = _bare_request(root, branch.above(), params, logprobs=True)
    req.output_ids = array("q", node.tokens)
    req.multiverse = branch
    return req


def steps_alone(req: Req) -> int:
    """Forward passes that stock code ran for ``req`` since it last lost its KV."""
    return int(req.extend_batch_idx + req.decode_batch_idx)


def share(tree: Tree) -> int:
    """Tokens left to the request, divided among its open paths; at least one."""
    left = tree.max_new_tokens - tree.total
    return max(1, left // max(1, sum(1 for node in tree.nodes() if not node.kids)))


def path_seed(seed: int | None, node: Node) -> int | None:
    """The sampling seed of a path.

    Seeded noise is keyed by (seed, position), and siblings have the same positions. Under
    ``--enable-deterministic-inference`` a request without a seed has SGLang's default one.
    """
    if seed is None:
        if not get_exec().deterministic.enable_deterministic_inference:
            return None
        seed = DEFAULT_SEED
    assert node.parent is not None
    digest = hashlib.sha256(f"{seed}/{node.key}/{node.parent.row_len}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def scratch_request(
    branch: Branch, ids: array[int], delta: int, layout: list[Segment] | None = None
) -> Req:
    """A request that writes the KV of the last of ``ids`` and samples nothing."""
    root = branch.root.req
    assert root is not None
    params = copy.copy(root.sampling_params)
    params.max_new_tokens = 1
    req = _bare_request(root, ids, params, logprobs=False)
    req.multiverse = Scratch(delta, layout)
    return req


def fresh_kv(req: Req) -> ReqKvInfo:
    """Detach and return the KV record of ``req``, leaving it one that holds nothing."""
    old, req.kv = req.kv, ReqKvInfo()
    return old
