"""How a request enters: as a tree, as a plain request, or not at all.

Reads ``Req`` as SGLang's tokenizer process filled it. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import weakref
from array import array
from dataclasses import replace
from typing import Any

from sglang.srt.managers.schedule_batch import Req

from ...dialect import Dialect
from ...engine.options import EngineOptions, OptionError
from ...engine.tree import Outcome, PromptError, State, Tree
from ...layout import segments
from ...structure import tag_offsets
from ...turns import Spans
from ..answers.events import Telling
from ..answers.thought_grammar import forks
from ..reporting.metrics import Observer
from ..rows.branch import Branch, Scratch, branch_of
from .endings import fail_at_door
from .pressure import arrival
from .priority import standing
from .values import unusable

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
    were made; so has a request whose events are asked for. Such a tree does not fork where the
    request may not.

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
    told = options.events and not barred
    if sequential:
        tagged = len(tag_offsets(ids, dialect, [(0, len(ids))] if spans is None else spans))
        if not tagged and not told:
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
        return None if sequential and not told else tree
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


class Entrance:
    """Requests that enter, mixed into the coordinator: its state, and what it offers."""

    scheduler: Any
    dialect: Dialect
    options: EngineOptions
    observer: Observer
    by_segments: bool
    keyed: bool
    trees: list[Branch]
    replays: list[Branch]
    #: Rows of stock code whose prompt holds blocks. They may end without a word.
    _laid_out: weakref.WeakSet[Branch]
    _arrivals: int
    contained: Any
    retract: Any
    _keep: Any

    def admit(self, req: Req) -> bool:
        """Prepare ``req`` for fork and join; True when the coordinator keeps it from the queue."""
        if isinstance(req.__dict__.get("multiverse"), Scratch):
            return True  # stock code retracted a row that only wrote KV: nothing is left to do
        branch = branch_of(req)
        if branch is not None:
            if not branch.tree.forked:
                return False
            # A stock retraction of one row of a tree: the tree goes as a whole.
            with self.contained(branch.root):
                self.retract(branch.root)
            return True
        if not hasattr(req, "multiverse_arrival"):
            self._arrivals += 1
            req.multiverse_arrival = (standing(self.scheduler, req), self._arrivals)
        wrong = unusable(req, self.scheduler.model_config.vocab_size)
        if wrong is not None:
            return self._refuse(req, wrong)
        if req.finished() or req.to_finish is not None:
            return False
        try:
            return self._admit_new(req)
        except OptionError as error:
            return self._refuse(req, str(error))
        except PromptError as error:
            self.observer.malformed("refused_prompt")
            return self._refuse(req, str(error))
        except Exception as error:
            self.observer.malformed("contained_error")
            self.replays = [root for root in self.replays if root.req is not req]
            self.trees = [root for root in self.trees if root.req is not req]
            fail_at_door(req, error)
        return False

    def _refuse(self, req: Req, why: str) -> bool:
        """Answer with HTTP 400 at the door, before any forward; True: the queue never sees it."""
        if req.to_finish is None:
            req.set_finish_with_abort(why)
        self.scheduler.retire_unadmitted_request(req)
        return True

    def _admit_new(self, req: Req) -> bool:
        tree = plant(
            req,
            self.dialect,
            self.options,
            grammar_waits=forks(req.grammar),
            by_segments=self.by_segments,
        )
        if tree is None:
            return False
        if tree.begin() is Outcome.LENGTH:
            raise PromptError(
                f"max_new_tokens {req.sampling_params.max_new_tokens} has no room for the paths of "
                "the goal that ends the prompt; raise it"
            )
        branch = Branch(tree, tree.root, req=req)
        branch.cacheable = self.keyed and not req.skip_radix_cache_insert
        branch.told = Telling(tree) if tree.options.events else None
        tree.root.handle = branch
        req.multiverse = branch
        self.observer.admitted()
        if not tree.structured_prompt:
            return False
        if tree.begins_forked or not self.by_segments:
            return self._enter_replay(branch)
        branch.lay_out(segments(tree.trace()[1]))
        req.skip_radix_cache_insert = not branch.cacheable
        self._laid_out.add(branch)
        return False

    def _enter_replay(self, branch: Branch) -> bool:
        """Keep a request whose prompt is laid out by a replay; True: it never meets the queue."""
        scheduler, req, root = self.scheduler, branch.req, branch.tree.root
        assert req is not None
        if not scheduler._set_or_validate_priority(req) or scheduler._abort_on_queued_limit(req):
            scheduler._release_aborted_request(req)
            return True
        if branch.tree.begins_forked:
            self.observer.forked(branch)
        else:
            root.state = State.RESUMING
            root.pending = 1
        self._keep(branch)
        self.replays.append(branch)
        self.replays.sort(key=arrival)
        req.skip_radix_cache_insert = True
        req.time_stats.set_wait_queue_entry_time()
        return True
