"""Calls over the OpenAI protocol, to any base URL."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import openai
import stamina
from openai.types.chat import ChatCompletion

from .budget import FREE, Prices
from .call import Call, Failure, Reply, Usage
from .rate import PerMinute

RETRIED = frozenset([408, 409, 429])  # and every 5xx
_FATAL = frozenset([401, 403, 404])
_OUT_OF_CREDIT = frozenset(["insufficient_quota", "billing_not_active"])


class TransportError(RuntimeError):
    """A call that could not be made. ``unanswered`` requests were sent and never answered;
    ``fatal``: the next call would fare no better."""

    def __init__(self, message: str, *, unanswered: int = 0, fatal: bool = False):
        super().__init__(message)
        self.unanswered = unanswered
        self.fatal = fatal


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

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.close()

    async def models(self) -> list[str]:
        """The ids of the models the endpoint offers."""
        return [model.id for model in (await self._client.models.list()).data]

    @property
    def slot(self) -> asyncio.Semaphore:
        """One of ``concurrency`` requests in flight: ``async with transport.slot``."""
        return self._slots

    async def send(self, call: Call) -> Reply:
        """The reply to ``call``, after as many requests as it takes. Hold a :attr:`slot`.

        Raises:
            TransportError: every request failed, or the first one for good.
        """
        endpoint, tries, unanswered = self.endpoint, 0, 0
        try:
            async for attempt in stamina.retry_context(
                on=self._wait,
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
        except (openai.OpenAIError, GarbledReply, TimeoutError) as error:
            raise TransportError(
                _explain(error, endpoint, tries), unanswered=unanswered, fatal=_fatal(error)
            ) from error
        return self._reply(completion, tries, unanswered, seconds)

    async def _request(self, call: Call) -> tuple[ChatCompletion, float]:
        estimate = sum(len(m.content) for m in call.messages) / 3 + call.sampling.max_tokens
        await self._requests.take()
        await self._tokens.take(estimate)
        start = time.monotonic()
        used = 0
        try:
            # The client's own timeout runs anew with every byte; this one does not.
            async with asyncio.timeout(self.endpoint.timeout):
                completion = await self._client.chat.completions.create(**self._body(call))
            _check(completion)
            used = completion.usage.total_tokens if completion.usage else 0
        except json.JSONDecodeError as error:
            raise GarbledReply(f"the body is not JSON: {error}") from error
        finally:
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
        return {
            "model": call.model,
            "messages": [{"role": m.role, "content": m.content} for m in call.messages],
            **fields,
            "extra_body": extra or None,
        }

    def _wait(self, error: Exception) -> bool | float:
        """Whether to retry after ``error``, or the seconds to wait before."""
        if isinstance(error, (openai.APIConnectionError, TimeoutError, GarbledReply)):
            return True
        if not isinstance(error, openai.APIStatusError) or error.code in _OUT_OF_CREDIT:
            return False
        if error.status_code not in RETRIED and error.status_code < 500:
            return False
        wait = retry_after(error.response.headers)
        if wait is None:
            return True
        return wait if wait <= self.endpoint.retry_after_max else False

    def _reply(
        self, completion: ChatCompletion, tries: int, unanswered: int, seconds: float
    ) -> Reply:
        choice = completion.choices[0]
        text = choice.message.content or ""
        refused = bool(choice.message.refusal)
        usage = _usage(completion)
        return Reply(
            text=choice.message.refusal or text,
            failure=_failure(choice.finish_reason, refused, text),
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


def _usage(completion: ChatCompletion) -> Usage:
    usage = completion.usage
    if usage is None:
        return Usage()
    details = usage.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details is not None else 0
    # Some endpoints count reasoning apart from the answer; the total has it.
    output = max(usage.completion_tokens, usage.total_tokens - usage.prompt_tokens)
    return Usage(usage.prompt_tokens, output, cached)


def _check(completion: Any) -> None:
    """Endpoints answer 200 with error pages, error objects and empty lists."""
    if not isinstance(completion, ChatCompletion):
        raise GarbledReply(f"the body is no JSON object: {str(completion)[:200]!r}")
    if not completion.choices or completion.choices[0].message is None:
        raise GarbledReply(f"the body holds no choice: {completion.to_json()[:200]}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by a response's headers, None where they do not say."""
    if milliseconds := headers.get("retry-after-ms"):
        try:
            return max(float(milliseconds) / 1000, 0.0)
        except ValueError:
            return None
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max((date - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)


def _was_sent(error: Exception) -> bool:
    """Whether the endpoint may have got the request: not where no connection was made.

    By name, since the client stands on httpx up to 2.x and on httpx2 from 3.x.
    """
    return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")


def _fatal(error: Exception) -> bool:
    return isinstance(error, openai.APIStatusError) and (
        error.status_code in _FATAL or error.code in _OUT_OF_CREDIT
    )


def _explain(error: Exception, endpoint: Endpoint, tries: int) -> str:
    where = f"{endpoint.base_url} (model {endpoint.model})"
    times = f"{tries} request{'s' if tries != 1 else ''}"
    if isinstance(error, openai.APIStatusError):
        remedy = {
            401: "; check the key and the variable `endpoint.api_key_env` names",
            403: "; the key may not use this model",
            404: "; check `endpoint.base_url` (it ends in /v1 with most servers) and the model",
        }.get(error.status_code, "")
        if error.code in _OUT_OF_CREDIT:
            remedy = "; the account is out of credit"
        return f"{where}: HTTP {error.status_code} after {times}: {error.message}{remedy}"
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return f"{where}: no answer within {endpoint.timeout:g} s, {times}"
    if isinstance(error, openai.APIConnectionError):
        return f"{where}: connection failed, {times}: {error.__cause__ or error}"
    return f"{where}: {error} ({times})"
