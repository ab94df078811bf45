"""Logit processors for the policy of branching and the tag guard, run in the server's process."""

from __future__ import annotations

import random
from typing import Any

from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

from sglang_multiverse.engine.policy import Policy
from sglang_multiverse.patches.active import coordinator
from sglang_multiverse.patches.rows.branch import Scratch

from .script import Forced, key_of


class Governed(Forced):
    """:class:`Forced` that also gives the server the policy in ``custom_params["policy"]``, so that
    one server can be watched under several."""

    def __call__(self, logits: Any, custom_param_list: Any) -> Any:
        active = coordinator()
        assert active is not None
        active.policy = Policy.parse(custom_param_list[-1]["policy"])
        return super().__call__(logits, custom_param_list)


class Preferred(Forced):
    """:class:`Forced`, but ``words`` are possible too: a forced tag that is masked gives way."""

    def __call__(self, logits: Any, custom_param_list: Any) -> Any:
        logits = super().__call__(logits, custom_param_list)
        for row, params in zip(logits, custom_param_list, strict=True):
            row[params["words"]] = row[params["words"]].clamp(min=-5.0)
        return logits


class Wild(CustomLogitProcessor):
    """Weighs words, every tag and the end of text at random, by place: a model with no manners.

    Reads ``custom_params``: ``wild`` (a seed), ``words``, ``tags``, ``eos``. Nothing is forced, so
    a mask that is applied later decides among the rest.
    """

    def __call__(self, logits: Any, custom_param_list: Any) -> Any:
        for row, params in zip(logits, custom_param_list, strict=True):
            request = params["__req__"]
            mark = request.__dict__.get("multiverse")
            if isinstance(mark, Scratch):
                continue
            key, own = key_of(mark.node), request.kv.kv_committed_len - mark.node.base
            rng = random.Random(f"{params['wild']}{key}:{own}")
            row.fill_(float("-inf"))
            for token in (*params["words"], *params["tags"], params["eos"]):
                row[token] = rng.random()
        return logits
