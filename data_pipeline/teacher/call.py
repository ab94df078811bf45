"""One call to an LLM and its reply: the only way a stage reaches a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

#: Why a reply cannot be used. ``too-long`` alone was never answered: the endpoint takes no request
#: of that length; ``unfinished`` ended for another reason than that it was done.
Failure = Literal[
    "length", "content-filter", "refusal", "empty-reply", "too-long", "oversized", "unfinished"
]


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Sampling:
    """How the model is to sample. ``extra`` is sent as it is, beside the standard fields."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int = 32768
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """What is set, as a JSON object."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        item, subject: which record, and which part of it (``P1``), the call is for; for the
            reader only, they are no part of the key.
        stage, stage_version: the code that asks and reads the reply.
        prompt, prompt_hash: name and content hash of the prompt file.
        attempt: 1 for the first; part of the key, or a rejected reply would be served again.
    """

    item: str
    stage: str
    stage_version: str
    prompt: str
    prompt_hash: str
    model: str
    sampling: Sampling
    messages: tuple[Message, ...]
    attempt: int = 1
    subject: str = ""

    @cached_property
    def input_hash(self) -> str:
        return digest([asdict(message) for message in self.messages])

    @cached_property
    def key(self) -> str:
        """The address of the reply in the store."""
        return digest(
            {
                "stage": self.stage,
                "stage_version": self.stage_version,
                "prompt": self.prompt_hash,
                "model": self.model,
                "sampling": self.sampling.fields(),
                "input": self.input_hash,
                "attempt": self.attempt,
            }
        )


@dataclass(frozen=True)
class Usage:
    """Tokens of one call as the endpoint counts them; ``cached`` is part of ``input``,
    reasoning is part of ``output``."""

    input: int = 0
    output: int = 0
    cached: int = 0


@dataclass(frozen=True)
class Reply:
    """What came back and is paid for.

    Attributes:
        failure: why ``text`` cannot be used, None if it can.
        cost: in the configured currency, 0 where no price is given.
        tries: requests it took; ``unanswered`` of them were sent and never answered, so the
            endpoint may have charged for them.
        seconds: of the request that was answered.
    """

    text: str
    failure: Failure | None = None
    usage: Usage = Usage()
    cost: float = 0.0
    tries: int = 1
    unanswered: int = 0
    seconds: float = 0.0


def digest(value: Any) -> str:
    """SHA-256 of ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
