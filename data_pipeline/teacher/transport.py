"""Calls over the OpenAI protocol, to any base URL."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import openai
import stamina
from openai.types.chat import ChatCompletion

from .budget import FREE, Prices, most_input_tokens
from .call import Call, Failure, Reply, Usage
from .rate import PerMinute

RETRIED = frozenset([408, 409, 429])  # and every 5xx
_FATAL = frozenset([401, 402, 403, 404])
_OUT_OF_CREDIT = frozenset(["insufficient_quota", "billing_not_active"])
_TOO_LONG = re.compile(
    r"context[ _](?:length|window)|maximum context|too many (?:input )?tokens"
    r"|(?:prompt|input|request|message)s?\b.{0,40}\b(?:too long|longer than)"
    r"|max_(?:completion_)?tokens\b.{0,60}\b(?:large|exceed|at most|less than|greater)",
    re.IGNORECASE | re.DOTALL,
)
#: Characters that one token can stand for, and then some: a longer reply is no model's.
CHARACTERS_PER_TOKEN = 64
#: What no request comes to; a count above it is none.
MOST_TOKENS = 10**9


class TransportError(RuntimeError):
    """A call that could not be made. ``unanswered`` requests were sent and never answered;
    ``fatal``: the next call would fare no better."""

    def __init__(self, message: str, *, unanswered: int = 0, fatal: bool = False):
        super().__init__(message)
        self.unanswered = unanswered
        self.fatal = fatal


class Interrupted(RuntimeError):
    """:meth:`Transport.wake` ended a call between two requests, ``unanswered`` of them sent."""

    def __init__(self, unanswered: int):
        super().__init__("the run is ending")
        self.unanswered = unanswered


class GarbledReply(RuntimeError):
    """The endpoint answered 200 with something that is no chat completion."""


@dataclass(frozen=True)
class Endpoint:
    """Where calls go and how hard to try.

    Attributes:
        timeout: seconds for one request, from sending to the last byte.
        attempts: requests per call at most; ``wait_initial`` and ``wait_max`` bound the backoff,
            in seconds. ``Retry-After`` goes before it, up to ``retry_after_max``.
        concurrency: requests in flight at most.
        requests_per_minute, tokens_per_minute: the provider's limits; tokens count estimated
            input and ``max_tokens`` until the reply tells the truth.
        max_tokens_field: the request field that bounds the output.
    """

    base_url: str
    model: str
    api_key: str = field(default="none", repr=False)
    timeout: float = 600.0
    attempts: int = 6
    wait_initial: float = 1.0
    wait_max: float = 60.0
    retry_after_max: float = 300.0
    concurrency: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_tokens_field: str = "max_tokens"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Transport:
    """Sends calls to an endpoint. Use as an asynchronous context manager."""

    def __init__(self, endpoint: Endpoint, prices: Prices = FREE):
        self.endpoint = endpoint
        self.prices = prices
        self._client = openai.AsyncOpenAI(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            timeout=endpoint.timeout,
            max_retries=0,  # every request is counted here
            default_headers=dict(endpoint.headers),
        )
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._requests = PerMinute(endpoint.requests_per_minute)
        self._tokens = PerMinute(endpoint.tokens_per_minute)
        self._waiting: set[asyncio.Task[Any]] = set()
        self._woken: set[asyncio.Task[Any]] = set()
        self._ending = False

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.close()

    async def models(self) -> list[str]:
        """The ids of the models the endpoint offers."""
        return [model.id for model in (await self._client.models.list()).data]

    def wake(self) -> None:
        """End every call that waits, for a retry or for a rate, in :class:`Interrupted`. Requests
        in flight go on; none is tried again."""
        self._ending = True
        self._woken |= self._waiting
        for task in self._waiting:
            task.cancel()

    @property
    def slot(self) -> asyncio.Semaphore:
        """One of ``concurrency`` requests in flight: ``async with transport.slot``."""
        return self._slots

    async def send(self, call: Call) -> Reply:
        """The reply to ``call``, after as many requests as it takes. Hold a :attr:`slot`.

        A request of a length that the endpoint does not take comes back as ``too-long``.

        Raises:
            TransportError: every request failed, or the first one for good.
            Interrupted: it waited when the run was told to end.
        """
        endpoint, tries, unanswered = self.endpoint, 0, 0
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            async for attempt in stamina.retry_context(
                on=lambda error: not self._ending and self._wait(error),
                attempts=endpoint.attempts,
                timeout=None,
                wait_initial=endpoint.wait_initial,
                wait_max=endpoint.wait_max,
                wait_jitter=endpoint.wait_initial,
            ):
                with attempt:
                    tries += 1
                    try:
                        completion, seconds = await self._request(call)
                    except (openai.APIConnectionError, TimeoutError) as error:
                        unanswered += _was_sent(error)
                        raise
                    except GarbledReply:
                        unanswered += 1
                        raise
        except asyncio.CancelledError:
            if task not in self._woken:
                raise
            task.uncancel()
            raise Interrupted(unanswered) from None
        except (openai.OpenAIError, GarbledReply, TimeoutError) as error:
            if _too_long(error):
                return Reply(str(error), "too-long", tries=tries, unanswered=unanswered)
            if self._ending and self._wait(error):
                raise Interrupted(unanswered) from error
            raise TransportError(
                _explain(error, endpoint, tries), unanswered=unanswered, fatal=_fatal(error)
            ) from error
        finally:
            self._waiting.discard(task)
            self._woken.discard(task)
        return self._reply(call, completion, tries, unanswered, seconds)

    async def _request(self, call: Call) -> tuple[ChatCompletion, float]:
        estimate = sum(len(m.content) for m in call.messages) / 3 + call.sampling.max_tokens
        await self._requests.take()
        await self._tokens.take(estimate)
        start = time.monotonic()
        used = 0
        task = asyncio.current_task()
        assert task is not None
        self._waiting.discard(task)
        try:
            # The client's own timeout runs anew with every byte; this one does not.
            async with asyncio.timeout(self.endpoint.timeout):
                completion = await self._client.chat.completions.create(**self._body(call))
            _check(completion)
            usage = _usage(completion)
            used = usage.input + usage.output if usage else estimate
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise GarbledReply(f"the body is not JSON: {error}") from error
        finally:
            self._waiting.add(task)
            self._tokens.give_back(estimate - used)
        return completion, time.monotonic() - start

    def _body(self, call: Call) -> dict[str, Any]:
        fields = call.sampling.fields()
        extra = dict(fields.pop("extra", {}))
        limit = fields.pop("max_tokens")
        if self.endpoint.max_tokens_field == "max_tokens":
            fields["max_tokens"] = limit
        else:
            extra[self.endpoint.max_tokens_field] = limit
        # As they are: the client would walk through them by their types, which takes it longer than
        # anything else.
        extra["messages"] = [{"role": m.role, "content": m.content} for m in call.messages]
        return {"model": call.model, "messages": [], **fields, "extra_body": extra}

    def _wait(self, error: Exception) -> bool | float:
        """Whether to retry after ``error``, or the seconds to wait before."""
        if isinstance(error, (openai.APIConnectionError, TimeoutError, GarbledReply)):
            return True
        if not isinstance(error, openai.APIStatusError) or _code(error) in _OUT_OF_CREDIT:
            return False
        if error.status_code not in RETRIED and error.status_code < 500:
            return False
        wait = retry_after(error.response.headers)
        if wait is None:
            return True
        return wait if wait <= self.endpoint.retry_after_max else False

    def _reply(
        self, call: Call, completion: ChatCompletion, tries: int, unanswered: int, seconds: float
    ) -> Reply:
        choice = completion.choices[0]
        text = _text(choice.message.content)
        refusal = _text(choice.message.refusal)
        failure = _failure(choice.finish_reason, bool(refusal), text)
        if len(text) > CHARACTERS_PER_TOKEN * call.sampling.max_tokens:
            text, failure = text[: CHARACTERS_PER_TOKEN * 16], "oversized"
        # What is not counted is taken to be the most it can be: a hard limit stays hard.
        usage = _usage(completion) or Usage(
            most_input_tokens(call.messages), call.sampling.max_tokens
        )
        return Reply(
            text=refusal or text,
            failure=failure,
            usage=usage,
            cost=self.prices.of(usage),
            tries=tries,
            unanswered=unanswered,
            seconds=seconds,
        )


def _failure(finish_reason: str | None, refused: bool, text: str) -> Failure | None:
    if finish_reason == "length":
        return "length"
    if finish_reason == "content_filter":
        return "content-filter"
    if refused:
        return "refusal"
    return None if text.strip() else "empty-reply"


def _text(content: Any) -> str:
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
        raise GarbledReply(f"the content is neither text nor parts: {str(content)[:200]!r}")
    whole = content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\x00", "")


def _usage(completion: ChatCompletion) -> Usage | None:
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


def _check(completion: Any) -> None:
    """Endpoints answer 200 with error pages, error objects and empty lists."""
    if not isinstance(completion, ChatCompletion):
        raise GarbledReply(f"the body is no JSON object: {str(completion)[:200]!r}")
    choices = completion.choices
    if not isinstance(choices, list) or not choices or not _is_message(choices[0]):
        raise GarbledReply(f"the body holds no choice: {str(completion)[:200]}")
    _text(choices[0].message.content)
    _text(choices[0].message.refusal)


def _is_message(choice: Any) -> bool:
    message = getattr(choice, "message", None)
    return hasattr(message, "content") and hasattr(message, "refusal")


def _too_long(error: Exception) -> bool:
    """Whether the endpoint said that it takes no request of this length."""
    return (
        isinstance(error, openai.APIStatusError)
        and error.status_code in (400, 413, 422)
        and (
            error.status_code == 413
            or _code(error) == "context_length_exceeded"
            or bool(_TOO_LONG.search(str(error.message)))
        )
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by a response's headers, None where they do not say."""
    if milliseconds := headers.get("retry-after-ms"):
        try:
            seconds = float(milliseconds) / 1000
        except ValueError:
            return None
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:  # "-0000": UTC by another name
        date = date.replace(tzinfo=datetime.UTC)
    return max((date - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)


def _was_sent(error: Exception) -> bool:
    """Whether the endpoint may have got the request: not where no connection was made.

    By name, since the client stands on httpx up to 2.x and on httpx2 from 3.x.
    """
    return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")


def _code(error: openai.APIStatusError) -> str:
    return str(error.code)  # whatever a body held there


def _fatal(error: Exception) -> bool:
    return isinstance(error, openai.APIStatusError) and (
        error.status_code in _FATAL or _code(error) in _OUT_OF_CREDIT
    )


def _explain(error: Exception, endpoint: Endpoint, tries: int) -> str:
    where = f"{endpoint.base_url} (model {endpoint.model})"
    times = f"{tries} request{'s' if tries != 1 else ''}"
    if isinstance(error, openai.APIStatusError):
        remedy = {
            401: "; check the key and the variable `endpoint.api_key_env` names",
            403: "; the key may not use this model",
            402: "; the account is out of credit",
            404: "; check `endpoint.base_url` (it ends in /v1 with most servers) and the model",
        }.get(error.status_code, "")
        if _code(error) in _OUT_OF_CREDIT:
            remedy = "; the account is out of credit"
        return f"{where}: HTTP {error.status_code} after {times}: {error.message}{remedy}"
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return f"{where}: no answer within {endpoint.timeout:g} s, {times}"
    if isinstance(error, openai.APIConnectionError):
        return f"{where}: connection failed, {times}: {error.__cause__ or error}"
    return f"{where}: {error} ({times})"
