"""How a request enters: as a tree, as a plain request, or not at all.

Reads ``Req`` as SGLang's tokenizer process filled it. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from array import array
from dataclasses import replace

from sglang.srt.managers.schedule_batch import Req

from ...dialect import Dialect
from ...engine.options import EngineOptions
from ...engine.tree import PromptError, Tree
from ...structure import tag_offsets
from ...turns import Spans

NOTHING = "max_new_tokens 0"

#: What only SGLang's own rows can do: name → whether ``req`` asks for it.
_STOCK_ONLY = {
    "input embeddings": lambda req: req.input_embeds is not None,
    "overridden embeddings": lambda req: req.positional_embed_overrides is not None,
    "multimodal inputs": lambda req: req.multimodal_inputs is not None,
    "a session": lambda req: req.session is not None or req.session_id is not None,
    "beam search": lambda req: req.beam_group is not None,
    "hidden states": lambda req: req.return_hidden_states,
    "routed experts": lambda req: req.return_routed_experts,
    "indexer top-k": lambda req: req.return_indexer_topk,
    "sampling masks": lambda req: req.return_sampling_mask,
    "scoring of many items": lambda req: (
        req.multi_item_delimiter_indices is not None or req.token_indices_to_pool is not None
    ),
    NOTHING: lambda req: req.sampling_params.max_new_tokens < 1,
}


def stock_only(req: Req) -> list[str]:
    """What ``req`` asks for that rows of a tree cannot do; with any of it, it does not fork."""
    return [name for name, asked in _STOCK_ONLY.items() if asked(req)]


def spans_of(ids: array[int], dialect: Dialect, structure: str) -> Spans | None:
    """Where tags are structure in a prompt, by the option of that name; None means everywhere."""
    if structure == "none":
        return []
    if structure == "all" or dialect.turns is None:
        return None
    return dialect.turns.spans(ids)


def plant(
    req: Req, dialect: Dialect, server: EngineOptions, *, grammar_waits: bool, by_segments: bool
) -> Tree | None:
    """The tree of a new request, or None for one that decodes as stock code does.

    A prompt that holds finished blocks has a tree in any case: what follows must see them as they
    were made. Such a tree does not fork where the request may not.

    Args:
        grammar_waits: the request's grammar, if any, leaves the thought alone.
        by_segments: the attention backend computes a prompt with finished blocks in one row.

    Raises:
        OptionError, PromptError: the options, or a prompt that cannot be laid out as it was made.
    """
    params = req.sampling_params
    options = server.for_request(params.custom_params)
    ids = req.origin_input_ids
    spans = spans_of(ids, dialect, options.structure)
    barred = stock_only(req)
    sequential = bool(barred) or not options.enabled or not grammar_waits
    if sequential:
        if not len(tag_offsets(ids, dialect, [(0, len(ids))] if spans is None else spans)):
            return None
        options = replace(options, max_branches=0)
    tree = Tree(
        ids,
        dialect,
        options,
        params.max_new_tokens,
        spans,
        server.limits,
        replays_prompt=not by_segments,
    )
    if not tree.structured_prompt:
        return None if sequential else tree
    if NOTHING in barred:
        barred.remove(NOTHING)  # it is laid out, and its only sample dropped
    in_one_row = by_segments and not tree.begins_forked
    if req.return_logprob and 0 <= req.logprob_start_len < len(ids) and not in_one_row:
        barred.append("logprobs of the prompt (logprob_start_len)")
    if barred:
        raise PromptError(
            f"the prompt holds parallel blocks, which cannot be laid out with {', '.join(barred)}; "
            'leave that out, or set custom_params.multiverse.structure to "none" to have tags read '
            "as words"
        )
    return tree
