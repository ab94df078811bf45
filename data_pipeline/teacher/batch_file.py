"""The files of the batch API: a request a line out, an answer a line back, in any order."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from openai.types.chat import ChatCompletion

from .call import Call
from .completion import KEPT, GarbledReply, read_completion
from .refused import Refused
from .transport import Endpoint, body_of

#: What every line asks, and the time a batch is given: the only one there is.
URL: Final = "/v1/chat/completions"
WINDOW: Final = "24h"
#: The most that a file may hold.
MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
#: Codes of lines that were never run, and cost nothing.
_NOT_RUN = frozenset(["batch_expired", "batch_cancelled"])


class NotRun(RuntimeError):
    """The line was never run: its batch ended before."""


#: What a line says of its call.
Answer = ChatCompletion | Refused | GarbledReply | NotRun


@dataclass(frozen=True)
class Line:
    """An answer, and the key of the call it is for."""

    key: str
    answer: Answer


def request_line(call: Call, endpoint: Endpoint) -> bytes:
    """The line that asks ``call``, under its key, as the client would send it.

    Raises:
        UnicodeEncodeError: it holds half a character.
    """
    fields = body_of(call, endpoint)
    extra = fields.pop("extra_body")
    line = {"custom_id": call.key, "method": "POST", "url": URL, "body": {**fields, **extra}}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def read_line(raw: bytes) -> Line | None:
    """The answer of one line; None where it does not say whose."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("custom_id"), str):
        return None
    try:
        return Line(value["custom_id"], _answer(value))
    except GarbledReply as error:
        return Line(value["custom_id"], error)


def _answer(value: dict[str, Any]) -> Answer:
    response, error = value.get("response"), value.get("error")
    if isinstance(response, dict) and type(response.get("status_code")) is int:
        status, body = response["status_code"], response.get("body")
        return read_completion(body) if status == 200 else Refused.read(status, body)
    if not isinstance(error, dict):
        raise GarbledReply(f"the line holds neither response nor error: {str(value)[:KEPT]}")
    code, message = str(error.get("code")), str(error.get("message"))
    if code in _NOT_RUN:
        return NotRun(f"{code}: {message}")
    # Without a status, the words tell; what they do not tell may pass.
    told = Refused(400, code, f"{code}: {message}")
    return told if told.too_long else Refused(500, code, f"{code}: {message}")
