"""The dialect's tags are text of every answer, in each process that decodes.

Targets: ``get_tokenizer`` and ``get_tokenizer_from_processor`` of
``sglang.srt.utils.hf_transformers``, through which the tokenizer manager, the scheduler and the
detokenizer load theirs. SGLang's own switch, ``skip_special_tokens`` of a request, shows or hides
all special tokens together. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import logging
from typing import Any

from sglang.srt.plugins.hook_registry import HookType

from ...tag_tokens import tags_as_text
from ..hooks import Hook

logger = logging.getLogger(__name__)


def _loaded(result: Any, *args: Any, **kwargs: Any) -> Any:
    if hasattr(result, "all_special_tokens"):
        changed = tags_as_text(result)
        if changed:
            logger.info("%d tags are text of the answer now, not special tokens", len(changed))
    return result


_LOADERS = "sglang.srt.utils.hf_transformers"

#: In every process of a server with the plugin.
HOOKS = (
    Hook(f"{_LOADERS}.tokenizer.get_tokenizer", HookType.AFTER, _loaded, ("tokenizer_name",)),
    Hook(
        f"{_LOADERS}.common.get_tokenizer_from_processor",
        HookType.AFTER,
        _loaded,
        ("processor",),
    ),
)
