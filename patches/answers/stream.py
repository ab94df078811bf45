"""What the client sees: canonical order, logprobs in that order, ``meta_info``.

Targets: ``_GenerationStreamAccumulator.accept`` (sends parts of an answer that is not streamed, and
may cut a stop string), ``SchedulerOutputStreamer._stream_output_generation`` and
``build_additional_customized_info`` (the streamer sends each request's own ``output_ids``; paths
must appear inside their trunk's), and ``TokenizerManager.update_request_meta_info`` (which would
list our per-request values per token). Stops are looked for with ``Req``'s own finish checks.
Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.managers.scheduler_components.output_streamer import (
    DEFAULT_FORCE_STREAM_INTERVAL,
)
from sglang.srt.plugins.hook_registry import HookType

from ..active import coordinator
from ..hooks import Hook
from ..rows.branch import Branch, Scratch, branch_of, steps_alone
from .events import report

logger = logging.getLogger(__name__)

META_PREFIX = "multiverse_"
_CHANNEL = "multiverse"


class Record(NamedTuple):
    """Everything ``return_logprob`` reports of one sampled token."""

    value: float
    token: int
    top_values: Any
    top_tokens: Any
    ids_values: Any
    ids_tokens: Any


def pull_records(branch: Branch) -> None:
    """Move new logprob entries of a path's request to its node."""
    req = branch.req
    if req is None or not req.return_logprob:
        return
    logs = req.logprob
    values = logs.output_token_logprobs_val
    while branch.unfilled and branch.pulled < len(values):
        i, branch.pulled = branch.pulled, branch.pulled + 1
        branch.node.records[branch.unfilled.pop(0)] = Record(
            values[i],
            logs.output_token_logprobs_idx[i],
            _at(logs.output_top_logprobs_val, i),
            _at(logs.output_top_logprobs_idx, i),
            _at(logs.output_token_ids_logprobs_val, i),
            _at(logs.output_token_ids_logprobs_idx, i),
        )


def _at(values: list[Any] | None, index: int) -> Any:
    return values[index] if values and index < len(values) else None


#: What the OpenAI API gives as the logprob of a token that cannot come up.
IMPOSSIBLE = -9999.0


def forced(token: int, logs: Any) -> Record:
    """The entry of a token the engine wrote: under the engine its probability is one."""
    others = (i for i in range(logs.top_logprobs_num + 1) if i != token)
    rest = [next(others) for _ in range(logs.top_logprobs_num - 1)]
    asked = list(logs.token_ids_logprob or ())
    return Record(
        0.0,
        token,
        [0.0, *(IMPOSSIBLE for _ in rest)],
        [token, *rest],
        [0.0 if i == token else IMPOSSIBLE for i in asked],
        asked,
    )


def sync_stream(root: Branch, *, everything: bool = False) -> bool:
    """Append newly visible tokens to the trunk's outputs; whether there were any.

    Stops of the caller's are looked for in what is appended, injected tokens included; the first
    one becomes ``root.ended_by``, and the output ends there.
    """
    req, tree = root.req, root.tree
    assert req is not None
    if root.ended_by is not None:
        return False
    if req.return_logprob:
        for node in tree.nodes():
            if node.parent is not None and node.handle is not None:
                pull_records(node.handle)
    emitted = tree.emit(everything=everything)
    req.output_ids.extend(emitted.tokens)
    if req.return_logprob:
        logs = req.logprob
        top, ids = logs.top_logprobs_num > 0, logs.token_ids_logprob is not None
        for token, record in zip(emitted.tokens, emitted.records, strict=True):
            entry = forced(token, logs) if record is None else record
            logs.output_token_logprobs_val.append(entry.value)
            logs.output_token_logprobs_idx.append(entry.token)
            if top:
                logs.output_top_logprobs_val.append(entry.top_values)
                logs.output_top_logprobs_idx.append(entry.top_tokens)
            if ids:
                logs.output_token_ids_logprobs_val.append(entry.ids_values)
                logs.output_token_ids_logprobs_idx.append(entry.ids_tokens)
    _look_for_stop(root, len(emitted))
    return len(emitted) > 0


def _look_for_stop(root: Branch, new: int) -> None:
    """Find the first stop of the caller's in the last ``new`` output tokens."""
    req, params = root.req, root.req.sampling_params
    if new and (params.stop_strs or params.stop_regex_strs or params.stop_token_ids):
        if not req._check_str_based_finish(new):
            # As for samples: no token ends an answer that must be longer.
            late = max(len(req.output_ids) - new, params.min_new_tokens - 1)
            req._check_token_based_finish(req.output_ids[late:])
        if req.finished_reason is not None:
            root.ended_by, req.finished_reason = req.finished_reason, None
            return
    if root.tree.stopped is not None:
        root.ended_by = root.tree.stopped.handle.ended_by
        req.finished_len = len(req.output_ids)


def visible_requests(reqs: list[Req], contain: Callable[[Branch, Exception], None]) -> list[Req]:
    """The requests to stream: paths stand for their trunk, scratch rows for nothing."""
    shown: list[Req] = []
    seen: set[int] = set()
    for req in reqs:
        if isinstance(req.__dict__.get("multiverse"), Scratch):
            continue
        branch = branch_of(req)
        if branch is None:
            shown.append(req)
            continue
        root = branch.root
        assert root.req is not None
        if id(root) in seen:
            continue
        if req.finished() or (branch.is_trunk and not branch.node.kids and root.ended_by is None):
            seen.add(id(root))
            shown.append(req)
        elif not root.tree.over:
            seen.add(id(root))
            try:
                moved = sync_stream(root)
                if root.told is not None and root.told.look():
                    moved = moved or root.req.stream
                if moved and root.ended_by is None:
                    shown.append(root.req)
            except Exception as error:
                contain(root, error)
    return shown


def injected_spans(sampled: bytes | bytearray) -> list[list[int]]:
    """``[start, end)`` runs of tokens the engine wrote itself, relative to the output."""
    spans: list[list[int]] = []
    for i, was_sampled in enumerate(sampled):
        if was_sampled:
            continue
        if spans and spans[-1][1] == i:
            spans[-1][1] = i + 1
        else:
            spans.append([i, i + 1])
    return spans


def meta_of(req: Req) -> dict[str, Any] | None:
    """The ``meta_info`` keys of a finished request."""
    if not req.finished():
        return None
    branch = branch_of(req)
    if branch is None:
        return None
    tree = branch.tree
    measured = tree.parallelism()
    sampled = b"".join(node.sampled for node in tree.nodes())
    return {
        "parallelism": round(measured.degree, 6),
        "net_parallelism": round(measured.net, 6),
        "critical_path_tokens": measured.critical_path_tokens,
        "forks": tree.tally.forks,
        "paths": tree.tally.paths,
        "depth": tree.tally.depth,
        "forward_steps": tree.tally.forward_steps if tree.forked else steps_alone(req),
        "injected": injected_spans(sampled[tree.prompt_len :]),
    }


def told_of(req: Req) -> dict[str, Any] | None:
    """What the tokenizer process is to know of ``req``: ``figures``, ``events``, or nothing."""
    branch = branch_of(req)
    if branch is None:
        return None
    found: dict[str, Any] = {}
    if branch.told is not None:
        branch.catch_up()
        branch.told.look(ended=req.finished())
        found["events"] = branch.told.take()
    figures = meta_of(req)
    return {**found, "figures": figures} if figures else found or None


def customized_info(reqs: list[Req]) -> dict[str, list[Any]]:
    """One entry per request in ``reqs`` for the tokenizer process."""
    values: list[dict[str, Any] | None] = []
    for req in reqs:
        try:
            values.append(told_of(req))
        except Exception:
            logger.exception("no figures for request %s", req.rid)
            values.append(None)
    return {_CHANNEL: values} if any(values) else {}


def take_channel(
    meta_info: dict[str, Any], info: dict[str, Any], index: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Move the figures of request ``index`` into ``meta_info``.

    Returns:
        What else was told of it, and what is left of ``info``.
    """
    values = info.get(_CHANNEL)
    if values is None:
        return {}, info
    told = values[index] or {}
    meta_info.update({META_PREFIX + key: value for key, value in told.get("figures", {}).items()})
    return told, {key: value for key, value in info.items() if key != _CHANNEL}


def _stream(
    original: Any,
    streamer: Any,
    reqs: list[Req],
    return_logprob: bool,
    skip_req: Any = None,
    is_idle_batch: bool = False,
) -> Any:
    active = coordinator()
    if active is not None and active.engaged:
        reqs = visible_requests(reqs, active.contain)
    return original(streamer, reqs, return_logprob, skip_req, is_idle_batch)


def _additional(result: dict[str, Any], streamer: Any, reqs: list[Req]) -> dict[str, Any]:
    return {**result, **customized_info(reqs)}


def _meta(
    original: Any,
    manager: Any,
    meta_info: dict[str, Any],
    state: Any,
    info: dict[str, Any],
    index: int,
    finish_reason: Any,
) -> Any:
    told, info = take_channel(meta_info, info, index)
    if told.get("events") is not None:
        report(manager, meta_info, state, told["events"], finish_reason)
    return original(manager, meta_info, state, info, index, finish_reason) if info else None


def _accept(original: Any, accumulator: Any, *, req: Req) -> Any:
    """What is sent now and then of an answer that is not streamed must not end in the middle of a
    stop string: the text before it would stay."""
    if (
        not req.stream
        and not req.finished()
        and branch_of(req) is not None
        and len(req.output_ids) % DEFAULT_FORCE_STREAM_INTERVAL == 0
        and req.check_match_stop_str_prefix()
    ):
        return None
    return original(accumulator, req=req)


_STREAMER = "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer"

HOOKS = (
    Hook(
        f"{_STREAMER.rpartition('.')[0]}._GenerationStreamAccumulator.accept",
        HookType.AROUND,
        _accept,
        ("self", "req"),
    ),
    Hook(
        f"{_STREAMER}._stream_output_generation",
        HookType.AROUND,
        _stream,
        ("self", "reqs", "return_logprob", "skip_req", "is_idle_batch"),
    ),
    Hook(
        f"{_STREAMER}.build_additional_customized_info",
        HookType.AFTER,
        _additional,
        ("self", "reqs"),
    ),
)

#: In the process of the HTTP server and the tokenizer.
MAIN_HOOKS = (
    Hook(
        "sglang.srt.managers.tokenizer_manager.TokenizerManager.update_request_meta_info",
        HookType.AROUND,
        _meta,
        ("self", "meta_info", "state", "customized_info", "index", "finish_reason"),
    ),
)
