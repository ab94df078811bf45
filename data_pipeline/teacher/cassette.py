"""Cassettes: one item and the replies a model gave to its calls, as YAML.

::

    question: What is …
    chain: Okay, so …
    attempt: The answer is …
    replies:
      outline-steps:
        - text: |
            S1: …
      rewrite B1:                 # one entry per attempt
        - finish_reason: length
          text: …
          faults: [{status: 429, retry_after: 0.1}]   # before the reply, in this order
        - text: …

A fault is one of ``status`` (with ``retry_after`` seconds), ``hang`` (seconds), ``garbage`` (the
body), ``cut: true`` (the connection ends inside the body).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..record import Record, item_id
from ..store.store import Store
from .address import blotted
from .task import Task


class CassetteError(ValueError):
    """A file that is no cassette."""


@dataclass(frozen=True)
class Replied:
    """One reply: its text or refusal, its finish reason, and what goes wrong before it."""

    text: str | None = None
    finish_reason: str = "stop"
    refusal: str | None = None
    faults: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Cassette:
    """One item with its replies by task name; reply ``n`` is for attempt ``n + 1``."""

    name: str
    question: str
    chain: str
    attempt: str = ""
    answer: str | None = None
    replies: dict[str, tuple[Replied, ...]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return item_id(self.question, self.chain)

    def record(self) -> Record:
        """The item as the stages take it."""
        columns = {
            "question": self.question,
            "deepseek_thinking_trajectory": self.chain,
            "deepseek_attempt": self.attempt,
            "solution": self.answer,
        }
        return Record(
            self.id, self.question, self.chain, self.attempt, self.answer, columns=columns
        )


def load(path: Path) -> Cassette:
    """The cassette of a file.

    Raises:
        CassetteError: it is not one; the message names the field.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Cassette(
            name=path.stem,
            question=raw["question"].strip(),
            chain=raw["chain"].strip(),
            attempt=raw.get("attempt", "").strip(),
            answer=raw.get("answer"),
            replies={
                task: tuple(
                    Replied(**{**one, "faults": tuple(one.get("faults", ()))}) for one in replies
                )
                for task, replies in raw["replies"].items()
            },
        )
    except yaml.YAMLError as error:
        raise CassetteError(f"{path} is not YAML: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise CassetteError(f"{path} is no cassette: {error!r}") from error


def load_all(folder: Path) -> list[Cassette]:
    """The cassettes of a folder, by file name."""
    cassettes = [load(path) for path in sorted(folder.glob("*.yaml"))]
    if not cassettes:
        raise CassetteError(f"{folder} holds no cassettes (*.yaml)")
    return cassettes


def record_cassettes(
    store: Store, items: Iterable[Record], folder: Path, *, secrets: Sequence[str] = ()
) -> list[Path]:
    """Write what a store holds on ``items`` as cassettes; ``secrets`` are blotted out.

    Keys and headers never reach a store; ``secrets`` is for an endpoint that echoes them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for item in items:
        replies: dict[str, list[dict[str, Any]]] = {}
        for row in store.calls(item.id):
            if row["state"] == "done":
                task = Task(row["stage"], row["subject"]).name
                answers = replies.setdefault(task, [])
                # Rows of other models or prompts may lie in one store; the last one counts.
                del answers[row["attempt"] - 1 :]
                answers.append(_replied(row["reply"], row["failure"]))
        value = {
            "question": item.question,
            "chain": item.source,
            "attempt": item.attempt,
            "answer": item.answer,
            "replies": replies,
        }
        text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
        for secret in secrets:
            text = blotted(text, secret)
        path = folder / f"{item.id}.yaml"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def _replied(text: str, failure: str | None) -> dict[str, Any]:
    if failure is None:
        return {"text": text}
    if failure == "refusal":
        return {"refusal": text}
    return {"text": text, "finish_reason": failure.replace("content-filter", "content_filter")}


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def completion(model: str, reply: Replied, prompt: str) -> dict[str, Any]:
    """``reply`` as the protocol writes it. Usage counts four characters a token."""
    text = reply.text or ""
    tokens = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4}
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.refusal is not None:
        message |= {"content": None, "refusal": reply.refusal}
    return {
        "id": "chatcmpl-replay",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
        "usage": {**tokens, "total_tokens": sum(tokens.values())},
    }
