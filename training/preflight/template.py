"""Whether what is trained on begins where a served answer begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def template_warning(
    tokenizer: Any, row: Mapping[str, Any], chat_template: str | None = None
) -> str | None:
    """What stands between the end of the generation prompt and the answer of ``row``, if anything.

    A chat template may render an answer with more before it than it asks for one with: Qwen3's
    writes an empty ``<think>`` there. Trained on, the model writes it, too.

    Args:
        row: ``prompt`` and ``completion``, or ``messages``, as messages; of another shape None.
    """
    asked, answer = _turns(row)
    if not asked or not answer:
        return None
    settings = {
        "tokenize": False,
        "tools": row.get("tools"),
        "chat_template": chat_template,
        **(row.get("chat_template_kwargs") or {}),
    }
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, **settings)
    whole = tokenizer.apply_chat_template([*asked, *answer], **settings)
    said = str(answer[0].get("content") or "")
    if not whole.startswith(prompt):
        shared = next(
            (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b),
            min(len(prompt), len(whole)),
        )
        return (
            f"the chat template asks for an answer with {_tail(prompt, shared)}, which it does not "
            "write before the answers trained on: served prompts will differ. Set a "
            "chat_template_path that renders both alike, or chat_template_kwargs in the rows"
        )
    between = whole[len(prompt) :].partition(said.strip()[:200])[0] if said.strip() else ""
    if not between.strip():
        return None
    return (
        f"the chat template writes {between!r} before the answers trained on and does not ask with "
        "it: the model learns to write that first. Set a chat_template_path without it, or give "
        "texts in place of messages"
    )


def _turns(row: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    if isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list):
        return row["prompt"], row["completion"]
    messages = row.get("messages")
    if not isinstance(messages, list):
        return [], []
    at = next((i for i, turn in enumerate(messages) if turn.get("role") == "assistant"), 0)
    return messages[:at], messages[at : at + 1]


def _tail(text: str, start: int) -> str:
    return repr(text[start:][:80])
