"""Calls over the OpenAI protocol, to any base URL."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import openai
import stamina
from openai.types.chat import ChatCompletion

from .address import blotted
from .budget import FREE, Prices
from .call import Call, Reply
from .completion import GarbledReply, check, reply_of, usage_of
from .rate import PerMinute, Taken
from .refused import Refused, retry_after

#: Requests in flight that one client of the library carries.
SHARE = 8
#: Characters told of an answer that is none.
MOST_SHOWN = 300


class TransportError(RuntimeError):
    """A call that could not be made. ``unanswered`` requests were sent and never answered;
    ``fatal``: the next call would fare no better, but for one that is ``single`` where others are
    answered; ``alone``: calls sent with it were answered."""

    def __init__(
        self,
        message: str,
        *,
        unanswered: int = 0,
        fatal: bool = False,
        single: bool = False,
        alone: bool = False,
    ):
        super().__init__(message)
        self.unanswered = unanswered
        self.fatal = fatal
        self.single = single
        self.alone = alone


class Interrupted(RuntimeError):
    """:meth:`Transport.wake` ended a call between two requests, ``unanswered`` of them sent."""

    def __init__(self, unanswered: int):
        super().__init__("the run is ending")
        self.unanswered = unanswered


class Booked(Protocol):
    """The books that :meth:`Transport.send` keeps of one call, request by request."""

    def lost(self) -> None:
        """The request was sent and is not answered: perhaps paid."""

    async def again(self) -> Reply | None:
        """Before another request: what it may take is held now; or the reply is there already."""


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

    def blotted(self, text: str) -> str:
        """``text`` without the key, see :func:`.address.blotted`."""
        return blotted(text, self.api_key)


class Transport:
    """Sends calls to an endpoint. Use as an asynchronous context manager."""

    def __init__(self, endpoint: Endpoint, prices: Prices = FREE):
        self.endpoint = endpoint
        self.prices = prices
        self._clients = _Clients(endpoint)
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._requests = PerMinute(endpoint.requests_per_minute)
        self._tokens = PerMinute(endpoint.tokens_per_minute)
        self._pace = asyncio.Lock()
        self._waiting: set[asyncio.Task[Any]] = set()
        self._woken: set[asyncio.Task[Any]] = set()
        self._ending = False
        self._answered = False

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._clients.close()

    async def models(self) -> list[str]:
        """The ids of the models the endpoint offers."""
        with self._clients.one() as client:
            return [model.id for model in (await client.models.list()).data]

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

    async def send(self, call: Call, books: Booked | None = None) -> Reply:
        """The reply to ``call``, after as many requests as it takes. Hold a :attr:`slot`.

        A request of a length that the endpoint does not take comes back as ``too-long``.

        Raises:
            TransportError: every request failed, or the first one for good.
            Interrupted: it waited when the run was told to end.
            Exception: what ``books`` raise, between two requests.
        """
        endpoint, tries, unanswered = self.endpoint, 0, 0
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            async for attempt in tries_of(
                endpoint, lambda error: not self._ending and retried(error, endpoint)
            ):
                with attempt:
                    if tries and books is not None:
                        known = await books.again()
                        if known is not None:
                            return known
                    tries += 1
                    try:
                        completion, seconds = await self._request(call)
                    except (openai.APIConnectionError, TimeoutError, GarbledReply) as error:
                        if was_sent(error):
                            unanswered += 1
                            if books is not None:
                                books.lost()
                        raise
        except asyncio.CancelledError:
            if task not in self._woken:
                raise
            task.uncancel()
            raise Interrupted(unanswered) from None
        except (openai.OpenAIError, GarbledReply, TimeoutError) as error:
            refused = Refused.of(error)
            if refused is not None and refused.too_long:
                said = endpoint.blotted(str(error))
                return Reply(said, "too-long", tries=tries, unanswered=unanswered)
            if self._ending and retried(error, endpoint):
                raise Interrupted(unanswered) from error
            raise failed(error, endpoint, tries, unanswered, others=self._answered) from error
        finally:
            self._waiting.discard(task)
            self._woken.discard(task)
        self._answered = True
        return reply_of(
            call,
            completion,
            self.prices,
            tries=tries,
            unanswered=unanswered,
            seconds=seconds,
            blot=endpoint.blotted,
        )

    async def _started(self, estimate: float) -> Taken:
        """Wait until both limits let a request of so many tokens start; one waits at a time, so
        that what one limit has let go does not pile up at the other."""
        async with self._pace:
            taken = await self._tokens.take(estimate)
            try:
                await self._requests.take()
            except BaseException:
                self._tokens.give_back(taken, 0)
                raise
            return taken

    async def _request(self, call: Call) -> tuple[ChatCompletion, float]:
        estimate = sum(len(m.content) for m in call.messages) / 3 + call.sampling.max_tokens
        taken = await self._started(estimate)
        start = time.monotonic()
        used = 0.0
        task = asyncio.current_task()
        assert task is not None
        self._waiting.discard(task)
        try:
            # The client's own timeout runs anew with every byte; this one does not.
            async with asyncio.timeout(self.endpoint.timeout):
                with self._clients.one() as client:
                    completion = await client.chat.completions.create(
                        **body_of(call, self.endpoint)
                    )
            check(completion)
            usage = usage_of(completion)
            used = usage.input + usage.output if usage else estimate
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise GarbledReply(f"the body is not JSON: {error}") from error
        finally:
            self._waiting.add(task)
            self._tokens.give_back(taken, used)
        return completion, time.monotonic() - start


class _Clients:
    """As many clients as requests in flight take, :data:`SHARE` a client.

    With every request a client looks at each of its connections, some with calls to the system:
    with 64 connections that takes a fifth of all CPU of a run.
    """

    def __init__(self, endpoint: Endpoint):
        self._endpoint = endpoint
        self._clients: list[openai.AsyncOpenAI] = []
        self._busy: list[int] = []

    @contextmanager
    def one(self) -> Iterator[openai.AsyncOpenAI]:
        """The first client with room, for one request."""
        at = next((at for at, busy in enumerate(self._busy) if busy < SHARE), len(self._busy))
        if at == len(self._busy):
            self._clients.append(client_of(self._endpoint))
            self._busy.append(0)
        self._busy[at] += 1
        try:
            yield self._clients[at]
        finally:
            self._busy[at] -= 1

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


def client_of(endpoint: Endpoint, *, redirected: bool = False) -> openai.AsyncOpenAI:
    """The client of ``endpoint``; it tries nothing again, for every request is counted here.
    ``redirected``: it goes where it is sent, which makes another request of one with a body."""
    return openai.AsyncOpenAI(
        api_key=endpoint.api_key,
        base_url=endpoint.base_url,
        timeout=endpoint.timeout,
        max_retries=0,
        default_headers=dict(endpoint.headers),
        http_client=openai.DefaultAsyncHttpxClient(follow_redirects=redirected),
    )


def body_of(call: Call, endpoint: Endpoint) -> dict[str, Any]:
    """What the client is to send for ``call``, as its keyword arguments."""
    fields = call.sampling.fields()
    extra = dict(fields.pop("extra", {}))
    limit = fields.pop("max_tokens")
    if endpoint.max_tokens_field == "max_tokens":
        fields["max_tokens"] = limit
    else:
        extra[endpoint.max_tokens_field] = limit
    # As they are: the client would walk through them by their types, which takes it longer than
    # anything else.
    extra["messages"] = [{"role": m.role, "content": m.content} for m in call.messages]
    return {"model": call.model, "messages": [], **fields, "extra_body": extra}


def tries_of(
    endpoint: Endpoint, again: Callable[[Exception], bool | float]
) -> AsyncIterator[stamina.Attempt]:
    """As many attempts at a request as the endpoint allows, with its waits between them; ``again``
    says after an error whether there is another."""
    return stamina.retry_context(
        on=again,
        attempts=endpoint.attempts,
        timeout=None,
        wait_initial=endpoint.wait_initial,
        wait_max=endpoint.wait_max,
        wait_jitter=endpoint.wait_initial,
    )


def retried(error: Exception, endpoint: Endpoint) -> bool | float:
    """Whether to try again after ``error``, or the seconds to wait before."""
    if isinstance(error, (openai.APIConnectionError, TimeoutError, GarbledReply)):
        return True
    refused = Refused.of(error)
    if refused is None or not refused.passes:
        return False
    assert isinstance(error, openai.APIStatusError)
    wait = retry_after(error.response.headers)
    if wait is None:
        return True
    return wait if wait <= endpoint.retry_after_max else False


def failed(
    error: Exception, endpoint: Endpoint, tries: int, unanswered: int = 0, *, others: bool = False
) -> TransportError:
    """The error of a call that came to ``error`` with the last of ``tries`` requests. ``others``:
    the endpoint has answered other calls."""
    where, times = place(endpoint), requests(tries)
    refused = Refused.of(error)
    if refused is not None:
        said = refused.explain(where, times)
        if refused.moved:
            said += f" ({_headers(error).get('location') or 'it does not say where'})"
        if refused.passes and (wait := _asked_to_wait(error)) > endpoint.retry_after_max:
            said += (
                f"; it asks to wait {wait:,.0f} s, more than `endpoint.retry_after_max` "
                f"({endpoint.retry_after_max:g})"
            )
    elif isinstance(error, (openai.APITimeoutError, TimeoutError)):
        said = f"{where}: no answer within {endpoint.timeout:g} s, {times}"
    elif isinstance(error, openai.APIConnectionError):
        said = f"{where}: connection failed, {times}: {_first(error.__cause__ or error)}"
    else:
        said = f"{where}: {endpoint.blotted(str(error))[:MOST_SHOWN]} ({times})"
    fatal = refused is not None and refused.fatal and not (others and refused.single)
    return TransportError(endpoint.blotted(said), unanswered=unanswered, fatal=fatal)


def _asked_to_wait(error: Exception) -> float:
    return retry_after(_headers(error)) or 0.0


def _headers(error: Exception) -> Mapping[str, str]:
    return error.response.headers if isinstance(error, openai.APIStatusError) else {}


def _first(error: BaseException) -> BaseException:
    """What a group of errors holds first: the group itself says nothing."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def place(endpoint: Endpoint) -> str:
    """Endpoint and model, for the reader."""
    return f"{endpoint.base_url} (model {endpoint.model})"


def requests(count: int) -> str:
    """``count`` requests, in words."""
    return f"{count} request{'s' if count != 1 else ''}"


def was_sent(error: Exception) -> bool:
    """Whether the endpoint may have got the request: not where no connection was made.

    By name, since the client stands on httpx up to 2.x and on httpx2 from 3.x.
    """
    return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")
