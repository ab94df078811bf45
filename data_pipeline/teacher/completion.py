"""Reading what came back: a chat completion as a reply, whatever an endpoint puts there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openai.types.chat import ChatCompletion

from .budget import Prices, most_input_tokens
from .call import Call, Failure, Reply, Usage

#: Characters that one token can stand for, and then some: a longer reply is no model's.
CHARACTERS_PER_TOKEN = 64
#: What no request comes to; a count above it is none.
MOST_TOKENS = 10**9
#: Characters kept of what is no completion: more than are told, so that a key in it is whole.
KEPT = 2000
#: Finish reasons of a reply that is whole: ``eos`` with Together, ``eos_token`` and
#: ``stop_sequence`` with text-generation-inference before 2.4, ``end_turn`` and ``end`` with
#: gateways that pass on those of others; none with servers that send none.
_WHOLE = frozenset(["stop", "eos", "eos_token", "stop_sequence", "end_turn", "end", ""])
#: Those of one that was cut: ``model_length`` with Mistral, at the end of its context.
_CUT = frozenset(["length", "model_length", "max_tokens"])


class GarbledReply(RuntimeError):
    """The endpoint answered 200 with something that is no chat completion."""


def read_completion(body: Any) -> ChatCompletion:
    """The completion that a JSON value holds, as the client reads it from a response.

    Raises:
        GarbledReply: it holds none.
    """
    if not isinstance(body, dict):
        raise GarbledReply(f"the body is no JSON object: {str(body)[:KEPT]!r}")
    try:
        completion = ChatCompletion.construct(**{**body, "_fields_set": None})
    except (TypeError, RecursionError) as error:
        raise GarbledReply(f"the body is no completion: {error}") from error
    check(completion)
    return completion


def check(completion: Any) -> None:
    """Endpoints answer 200 with error pages, error objects and empty lists."""
    if not isinstance(completion, ChatCompletion):
        raise GarbledReply(f"the body is no JSON object: {str(completion)[:KEPT]!r}")
    choices = completion.choices
    if not isinstance(choices, list) or not choices or not _is_message(choices[0]):
        raise GarbledReply(f"the body holds no choice: {str(completion)[:KEPT]}")
    text_of(choices[0].message.content)
    text_of(choices[0].message.refusal)


def reply_of(
    call: Call,
    completion: ChatCompletion,
    prices: Prices,
    *,
    tries: int = 1,
    unanswered: int = 0,
    seconds: float = 0.0,
    blot: Callable[[str], str] = str,
) -> Reply:
    """The reply that a checked ``completion`` is to ``call``. ``blot`` takes out what must not be
    stored."""
    choice = completion.choices[0]
    text = blot(text_of(choice.message.content))
    refusal = blot(text_of(choice.message.refusal))
    failure = _failure(choice.finish_reason, bool(refusal), text)
    if failure == "unfinished":  # nobody reads on in it, but for the word
        text = f"finish reason {blot(str(choice.finish_reason))[:40]!r}\n{text}"
    if len(text) > CHARACTERS_PER_TOKEN * call.sampling.max_tokens:
        text, failure = text[: CHARACTERS_PER_TOKEN * 16], "oversized"
    # What is not counted is taken to be the most it can be: a hard limit stays hard.
    usage = usage_of(completion) or Usage(
        most_input_tokens(call.messages), call.sampling.max_tokens
    )
    return Reply(
        text=refusal or text,
        failure=failure,
        usage=usage,
        cost=prices.of(usage),
        tries=tries,
        unanswered=unanswered,
        seconds=seconds,
    )


def _failure(finish_reason: Any, refused: bool, text: str) -> Failure | None:
    reason = str(finish_reason or "").lower()
    if reason in _CUT:
        return "length"
    if reason == "content_filter":
        return "content-filter"
    if refused:
        return "refusal"
    if reason not in _WHOLE:
        return "unfinished"
    return None if text.strip() else "empty-reply"


def text_of(content: Any) -> str:
    """What a message says: a text, or a list of parts. NUL bytes are left out, and half a character
    (a lone surrogate) becomes U+FFFD: no store takes either.

    Raises:
        GarbledReply: it is neither.
    """
    if content is None:
        return ""
    if isinstance(content, list):
        content = "".join(
            part if isinstance(part, str) else str(part.get("text") or "")
            for part in content
            if isinstance(part, (str, dict))
        )
    if not isinstance(content, str):
        raise GarbledReply(f"the content is neither text nor parts: {str(content)[:KEPT]!r}")
    whole = content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\x00", "")


def usage_of(completion: ChatCompletion) -> Usage | None:
    """What the endpoint counted; None where it did not, or not in whole numbers."""
    usage = completion.usage
    if usage is None:
        return None
    details = getattr(usage, "prompt_tokens_details", None)
    cached = getattr(details, "cached_tokens", None) or 0
    counts = [getattr(usage, f"{name}_tokens", None) for name in ("prompt", "completion", "total")]
    counts.append(cached)
    if not all(type(count) is int and 0 <= count <= MOST_TOKENS for count in counts):
        return None
    given, written, total, cached = counts
    # Some endpoints count reasoning apart from the answer; the total has it.
    return Usage(given, max(written, total - given), min(cached, given))


def _is_message(choice: Any) -> bool:
    message = getattr(choice, "message", None)
    return hasattr(message, "content") and hasattr(message, "refusal")
