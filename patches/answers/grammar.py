"""Grammars that wait for the thought, so that a constrained request forks in it.

Targets: ``ReasonerGrammarBackend._make_grammar_object`` and
``GrammarManager._apply_request_reasoning_config``. SGLang's reasoner grammar waits for the end of
a thought that it takes for granted, and knows neither an answer that begins without one nor tokens
that would open a block in the constrained part. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.plugins.hook_registry import HookType
from sglang.srt.runtime_context import get_serving

from ..active import coordinator
from ..hooks import Hook
from .parsers import NAME
from .thought import opened_by
from .thought_grammar import ThoughtGrammar


def _make(original: Any, backend: Any, grammar: Any, reasoning: bool) -> Any:
    made = original(backend, grammar, reasoning)
    active = coordinator()
    if active is None or get_serving().reasoning_parser != NAME:
        return made
    return ThoughtGrammar.like(made, active.dialect)


def _configured(result: Any, manager: Any, req: Req) -> None:
    grammar = req.grammar
    if isinstance(grammar, ThoughtGrammar):
        opened = opened_by(req.origin_input_ids, grammar.dialect)
        grammar.begin(waits=req.require_reasoning, opened=opened)


_CONSTRAINED = "sglang.srt.constrained"

HOOKS = (
    Hook(
        f"{_CONSTRAINED}.reasoner_grammar_backend.ReasonerGrammarBackend._make_grammar_object",
        HookType.AROUND,
        _make,
        ("self", "grammar", "reasoning"),
    ),
    Hook(
        f"{_CONSTRAINED}.grammar_manager.GrammarManager._apply_request_reasoning_config",
        HookType.AFTER,
        _configured,
        ("self", "req"),
    ),
)
