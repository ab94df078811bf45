"""The tag guard on the device: which tags a row may sample, followed token by token.

With overlap scheduling a step is launched before the host has read the sample of the step before,
so the state of a row lives on the device: one integer for each row of the page table. The host sets
it whenever it extends a row, from all the row has written; every sample moves it on. A row that is
not guarded has the state ``FREE``, and a batch without a guarded row costs nothing.

Targets: ``ForwardBatch.init_new`` (the launch of a step, on the stream it runs on: rows that are
extended get their state there), ``Sampler._preprocess_logits`` (the last place before sampling,
behind grammars, biases and custom logit processors) and ``ModelRunner.sample`` (the sampled tokens,
with the rows they belong to). SGLang's observer of samples sees logits before custom processors,
and a custom processor cannot carry a state across an unread sample. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.plugins.hook_registry import HookType

from ...dialect import Dialect
from ...engine.guard import FREE, Prompt, Tables, symbols_of
from ...engine.tree import Node, State, Tree
from ...structure import parse, tag_offsets
from ..active import coordinator
from ..hooks import Hook
from .branch import Branch, branch_of

if TYPE_CHECKING:
    from ..scheduling.coordinator import Coordinator


class Guard:
    """The states of all rows of one scheduler's page table.

    Args:
        dialect: whose tags are guarded.
        ends: token ids that end a text.
        vocab_size: token ids there are.
        rows: rows of the page table.
    """

    def __init__(
        self, dialect: Dialect, ends: Iterable[int], vocab_size: int, rows: int, device: Any
    ):
        self.dialect = dialect
        self.tables = Tables()
        ends = sorted({token for token in ends if 0 <= token < vocab_size})
        self.symbols = symbols_of(dialect, vocab_size, ends)
        columns = [*dialect.tag_ids, *ends]
        self._kinds = self.symbols[columns]
        self._columns = torch.tensor(columns, device=device)
        self._symbol_of = torch.tensor(self.symbols, device=device)
        self._states = torch.zeros(rows, dtype=torch.int64, device=device)
        self._allowed: torch.Tensor | None = None
        self._following: torch.Tensor | None = None
        #: Rows that may hold another state than FREE, with whom it was set for.
        self._guarded: dict[int, Branch] = {}
        self._prompts: WeakKeyDictionary[Tree, Prompt] = WeakKeyDictionary()

    def launch(self, extended: list[Req]) -> bool:
        """A step is launched that extends these rows; whether any row there is may be guarded."""
        changed: dict[int, int] = {}
        for req in extended:
            row, branch = req.kv.req_pool_idx, branch_of(req)
            if branch is not None and branch.tree.options.tag_guard:
                self._guarded[row] = branch
                branch.catch_up()
                changed[row] = self.state(branch.node, branch.tree)
            elif self._guarded.pop(row, None) is not None:
                changed[row] = FREE
        for row, branch in [*self._guarded.items()]:
            if not _samples(branch, row):
                del self._guarded[row]
                changed[row] = FREE
        if changed:
            self._write(changed)
        return bool(self._guarded)

    def state(self, node: Node, tree: Tree) -> int:
        """The state of a row that goes on after all tokens of ``node``."""
        skip = tree.prompt_len if node.parent is None else 0
        written = self.symbols[np.asarray(node.tokens[skip:], dtype=np.int64)].tolist()
        prompt = self._prompt(tree) if node.parent is None else None
        return self.tables.state(tree.limits, node.depth, written, prompt)

    def _prompt(self, tree: Tree) -> Prompt:
        if tree not in self._prompts:
            tokens, spans = tree.root.tokens[: tree.prompt_len], tree.spans
            offsets = tag_offsets(tokens, self.dialect, spans)
            tags = self.symbols[np.asarray(tokens, dtype=np.int64)[offsets]].tolist()
            trace = parse(tokens, self.dialect, limits=tree.prompt_limits, spans=spans)
            self._prompts[tree] = Prompt.of(trace, offsets.tolist(), tags)
        return self._prompts[tree]

    def _write(self, states: dict[int, int]) -> None:
        device = self._states.device
        rows = torch.tensor([*states], device=device)
        self._states[rows] = torch.tensor([*states.values()], device=device)
        if self._allowed is None or len(self._allowed) < len(self.tables):
            allowed = self.tables.allowed[:, self._kinds]
            self._allowed = torch.tensor(allowed, device=device)
            self._following = torch.tensor(self.tables.following, device=device)

    def mask(self, logits: torch.Tensor, rows: torch.Tensor) -> None:
        """Put -inf where the next token may not be, in place; ``logits`` is ``(rows, vocab)``.

        A row that would have nothing left, because a bias or a processor allowed forbidden tags
        alone, stays as it was: sampling from nothing would end the server.
        """
        assert self._allowed is not None
        before = logits[:, self._columns]
        allowed = self._allowed[self._states[rows]]
        logits[:, self._columns] = before.masked_fill(~allowed, float("-inf"))
        empty = torch.isneginf(logits.amax(-1, keepdim=True))
        logits[:, self._columns] = torch.where(empty, before, logits[:, self._columns])

    def advance(self, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """``tokens`` have been sampled for ``rows``."""
        assert self._following is not None
        symbols = self._symbol_of[tokens.to(torch.int64)]
        self._states[rows] = self._following[self._states[rows], symbols]


def _samples(branch: Branch, row: int) -> bool:
    """Whether ``branch`` still decodes in ``row``."""
    req = branch.req
    return (
        req is not None
        and req.kv.req_pool_idx == row
        and branch.node.state is State.RUNNING
        and not branch.tree.over
    )


def _make(active: Coordinator) -> Guard:
    pages = active.scheduler.req_to_token_pool.req_to_token
    vocab_size = active.scheduler.model_config.vocab_size
    return Guard(active.dialect, active.ends, vocab_size, len(pages), pages.device)


def _asks(req: Req) -> bool:
    branch = branch_of(req)
    return branch is not None and branch.tree.options.tag_guard


#: The guard of this process; None until a request asks for it.
_guard: Guard | None = None
#: The guard and the rows of the batch being sampled.
_sampling: tuple[Guard, torch.Tensor] | None = None


def _launch(result: Any, cls: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    global _guard
    active = coordinator()
    if active is None or not batch.reqs:
        return result
    extended: list[Req] = []
    if result.forward_mode.is_extend():
        extended = batch.reqs[: len(batch.reqs) - len(batch.decoding_reqs or ())]
    if _guard is None and any(map(_asks, extended)):
        _guard = _make(active)
    if _guard is not None and _guard.launch(extended):
        result.multiverse_guard = _guard
    return result


def _preprocess(result: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if _sampling is not None:
        guard, rows = _sampling
        guard.mask(result, rows)
    return result


def _sample(
    original: Callable[..., torch.Tensor], runner: Any, logits_output: Any, forward_batch: Any
) -> torch.Tensor:
    global _sampling
    guard = forward_batch.__dict__.get("multiverse_guard")
    if guard is None:
        return original(runner, logits_output, forward_batch)
    rows = forward_batch.req_pool_indices[: len(logits_output.next_token_logits)]
    _sampling = (guard, rows)
    try:
        tokens = original(runner, logits_output, forward_batch)
    finally:
        _sampling = None
    guard.advance(rows, tokens)
    return tokens


HOOKS = (
    Hook(
        "sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new",
        HookType.AFTER,
        _launch,
        ("batch", "model_runner"),
    ),
    Hook(
        "sglang.srt.layers.sampler.Sampler._preprocess_logits",
        HookType.AFTER,
        _preprocess,
        ("self", "logits", "sampling_info"),
    ),
    Hook(
        "sglang.srt.model_executor.model_runner.ModelRunner.sample",
        HookType.AROUND,
        _sample,
        ("self", "logits_output", "forward_batch"),
    ),
)
