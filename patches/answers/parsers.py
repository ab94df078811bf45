"""``--reasoning-parser multiverse``: what stands in the thought is ``reasoning_content``.

Extends ``ReasoningParser.DetectorMap`` and ``REASONING_PARSER_NAMES``, SGLang's registries of
parsers (``parser/reasoning_parser.py``, ``parser/reasoning_parser_names.py``). Verified on SGLang
0.5.23.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from sglang.srt.parser.reasoning_parser_names import REASONING_PARSER_NAMES

from ...dialect import MULTIVERSE, Tag

NAME = "multiverse"
_MODULE = "sglang.srt.parser.reasoning_parser"


def offer() -> None:
    """Make the name a choice of ``--reasoning-parser``; the parser too, where its module is loaded.

    Importing the module takes seconds, so it is left to :func:`install`.
    """
    if NAME not in REASONING_PARSER_NAMES:
        REASONING_PARSER_NAMES.append(NAME)
    if _MODULE in sys.modules:
        install()


def install() -> None:
    """Make the parser known to this process."""
    from sglang.srt.parser.reasoning_parser import ReasoningParser

    if NAME not in ReasoningParser.DetectorMap:
        from .thought import ThoughtDetector

        ReasoningParser.DetectorMap[NAME] = ThoughtDetector


@functools.cache
def _prefilled(template: str, tokenizer: Any) -> bool:
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], add_generation_prompt=True, tokenize=False
    )
    start, end = MULTIVERSE[Tag.THINK], MULTIVERSE[Tag.END_THINK]
    return bool(rendered.rfind(start) > rendered.rfind(end))


def prefilled(tokenizer: Any) -> bool:
    """Whether the chat template itself opens the thought of every answer."""
    template = getattr(tokenizer, "chat_template", None)
    if not isinstance(template, str) or MULTIVERSE[Tag.THINK] not in template:
        return False
    return _prefilled(template, tokenizer)
