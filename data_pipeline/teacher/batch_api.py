"""The batch API of a provider, by OpenAI's protocol: files up, batches made and looked at, files
down. Every request is tried again as the endpoint says; what fails for good is one line."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import openai
from openai.types import Batch

from .batch_file import URL, WINDOW
from .completion import KEPT, GarbledReply
from .refused import Refused
from .transport import Endpoint, TransportError, client_of, failed, retried, tries_of

Value = TypeVar("Value")

#: Statuses of a batch that has ended, and of one that has not.
ENDED = frozenset(["completed", "failed", "expired", "cancelled"])
MOVING = frozenset(["validating", "in_progress", "finalizing", "cancelling"])
_SPELT = {"canceled": "cancelled", "canceling": "cancelling"}
#: HTTP statuses of an address that is not there.
_ABSENT = frozenset([404, 405, 501])
#: Errors of a file named in one line.
_MOST_ERRORS = 3


class NotThere(RuntimeError):
    """The provider knows nothing by that id."""


class NoAnswer(TransportError):
    """A request that may be answered another time was not, as often as it was tried."""


class CannotTell(RuntimeError):
    """A batch may have been created, and the provider has no list of batches to look in."""


class NoList(GarbledReply):
    """What should be the list of batches is none."""


@dataclass(frozen=True)
class Seen:
    """A batch as the provider tells it.

    Attributes:
        status: as OpenAI spells it, where it is one of theirs.
        answered: requests that came to an answer or an error so far.
        output_file, error_file: ids of the files with the lines, where there are any.
        errors: why the file was refused, in one line.
    """

    id: str
    status: str
    answered: int = 0
    output_file: str | None = None
    error_file: str | None = None
    errors: str = ""

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def known(self) -> bool:
        """Whether the protocol has this status."""
        return self.status in ENDED | MOVING


class BatchApi:
    """The files and batches of an endpoint. Use as an asynchronous context manager."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint
        self._client = client_of(endpoint, redirected=True)

    async def __aenter__(self) -> BatchApi:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.close()

    async def upload(self, name: str, file: IO[bytes]) -> str:
        """The id of ``file``, uploaded as ``name.jsonl``. It costs nothing, once or twice.

        Raises:
            TransportError: there is no batch API, or it takes no such file.
        """

        async def ask() -> str:
            file.seek(0)
            given = await self._client.files.create(file=(f"{name}.jsonl", file), purpose="batch")
            return _id(given)

        return await self._tried("POST /files", ask)

    async def create(self, file: str, name: str, *, maybe: bool = False) -> Seen:
        """A batch of the uploaded ``file``. It is created once: where a request for it was not
        answered, the provider's list tells whether there is one.

        Args:
            maybe: it was perhaps asked for before.

        Raises:
            TransportError: it cannot be created; ``unanswered`` is 1 where it perhaps was.
            CannotTell: there may be one, and there is no list, or none that can be read.
        """

        async def ask() -> Seen:
            nonlocal maybe
            if maybe:
                found = await self._find(file, name)
                if found is not None:
                    return found
            maybe = True
            try:
                made = await self._client.batches.create(
                    input_file_id=file,
                    endpoint=URL,
                    completion_window=WINDOW,
                    metadata={"name": name},
                )
            except openai.APIStatusError as error:
                maybe = error.status_code >= 500 or error.status_code == 408
                raise
            return _seen(made)

        try:
            return await self._tried("POST /batches", ask)
        except TransportError as error:
            if isinstance(error.__cause__, NoList):
                raise CannotTell(str(error)) from error
            raise TransportError(str(error), unanswered=int(maybe), fatal=True) from error

    async def _find(self, file: str, name: str) -> Seen | None:
        """The batch of ``file`` in the provider's list, in whatever order that is.

        Raises:
            NoList: it cannot be read to its end, so that the batch may be in it.
        """
        told: set[str] = set()
        after: dict[str, str] = {}
        while True:
            try:
                page = await self._client.get(
                    "/batches", cast_to=object, options={"params": {"limit": 100, **after}}
                )
            except openai.APIStatusError as error:
                if error.status_code in _ABSENT:
                    raise CannotTell(f"{self.endpoint.base_url} has no list of batches") from error
                raise
            rows, more = _rows(page)
            for row in rows:
                noted = row.get("metadata")
                named = isinstance(noted, dict) and noted.get("name") == name
                if named or row.get("input_file_id") == file:
                    return _seen(Batch.construct(None, **row))
            for row in rows:
                _check(row)
            if not rows or more is False:
                return None
            last = rows[-1]["id"]
            if last in told:
                if more:
                    raise NoList(f"the list of batches goes round: {last!r} comes again")
                return None  # it pays no heed to ``after``, and says not whether there is more
            told.update(row["id"] for row in rows)
            after = {"after": last}

    async def look(self, id: str) -> Seen:
        """The batch ``id`` as it is now.

        Raises:
            NotThere: the provider does not know it.
            NoAnswer: it did not say.
            TransportError: it does not want to.
        """

        async def ask() -> Seen:
            return _seen(await self._client.batches.retrieve(id))

        return await self._tried(f"GET /batches/{id}", ask, missing=True)

    async def download(self, file: str) -> IO[bytes]:
        """The content of ``file``, in a temporary file.

        Raises:
            NotThere: the provider does not have it.
            TransportError: it could not be read to its end.
        """

        async def ask() -> IO[bytes]:
            content = tempfile.TemporaryFile()  # noqa: SIM115 - whoever asked for it closes it
            try:
                async with self._client.files.with_streaming_response.content(file) as response:
                    async for chunk in _unbroken(response.iter_bytes()):
                        content.write(chunk)
            except BaseException:
                content.close()
                raise
            content.seek(0)
            return content

        return await self._tried(f"GET /files/{file}/content", ask, missing=True)

    async def _tried(
        self, what: str, ask: Callable[[], Awaitable[Value]], *, missing: bool = False
    ) -> Value:
        """What ``ask`` gives, after as many tries as the endpoint is allowed. ``missing``: an
        address that is not there is an id that is not there."""
        endpoint, tries = self.endpoint, 0
        try:
            async for attempt in tries_of(endpoint, lambda error: retried(error, endpoint)):
                with attempt:
                    tries += 1
                    return await self._once(ask)
        except (openai.OpenAIError, GarbledReply, TimeoutError) as error:
            refused = Refused.of(error)
            if missing and refused is not None and refused.status in _ABSENT:
                raise NotThere(f"{endpoint.base_url}: HTTP {refused.status} at {what}") from error
            raise _told(what, error, endpoint, tries) from error
        raise AssertionError("a retry ends in a value or an error")

    async def _once(self, ask: Callable[[], Awaitable[Value]]) -> Value:
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                return await ask()
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise GarbledReply(f"the body is not JSON: {error}") from error
        except (AttributeError, TypeError) as error:  # of the client, at a value of another kind
            raise GarbledReply(f"the body is of another kind: {error}") from error


async def _unbroken(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except Exception as error:  # of httpx, or of httpx2: the client leaves them as they are here
        raise GarbledReply(f"the file broke off: {error!r}") from error


def _rows(page: Any) -> tuple[list[dict[str, Any]], bool | None]:
    """What a page of the list of batches holds, and whether there is more, as far as it says.

    Raises:
        NoList: it is no list of batches.
    """
    rows = page.get("data") if isinstance(page, dict) else None
    if not isinstance(rows, list):
        raise NoList(f"the body holds no list of batches: {str(page)[:KEPT]!r}")
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise NoList(f"the list of batches holds something else: {str(row)[:KEPT]!r}")
    more = page.get("has_more")
    return rows, more if more is None else bool(more)


def _check(row: dict[str, Any]) -> None:
    """A row that does not say of which file its batch is may be that of any.

    Raises:
        NoList: it is such a one.
    """
    noted, file = row.get("metadata"), row.get("input_file_id", row)
    if not isinstance(file, str | None) or not isinstance(noted, dict | None):
        raise NoList(f"a batch in the list names no file: {str(row)[:KEPT]!r}")


def _id(value: Any) -> str:
    id = getattr(value, "id", None)
    if not isinstance(id, str) or not id:
        raise GarbledReply(f"the body names no id: {str(value)[:KEPT]!r}")
    return id


def _seen(value: Any) -> Seen:
    """What a body says of a batch.

    Raises:
        GarbledReply: it says nothing of one.
    """
    status = getattr(value, "status", None)
    if not isinstance(status, str):
        raise GarbledReply(f"the body names no status: {str(value)[:KEPT]!r}")
    counts = getattr(value, "request_counts", None)
    numbers = [getattr(counts, name, None) for name in ("completed", "failed")]
    files = [getattr(value, name, None) for name in ("output_file_id", "error_file_id")]
    output, error = [file if isinstance(file, str) and file else None for file in files]
    spelt = status.strip().lower()
    return Seen(
        id=_id(value),
        status=_SPELT.get(spelt, spelt),
        answered=sum(number for number in numbers if type(number) is int),
        output_file=output,
        error_file=error,
        errors=_errors(value),
    )


def _errors(value: Any) -> str:
    data = getattr(getattr(value, "errors", None), "data", None)
    said = []
    for one in data if isinstance(data, list) else []:
        line = getattr(one, "line", None)
        where = f" (line {line})" if line is not None else ""
        said.append(f"{getattr(one, 'code', None)}: {getattr(one, 'message', None)}{where}")
    more = f"; and {len(said) - _MOST_ERRORS} more" if len(said) > _MOST_ERRORS else ""
    return "; ".join(said[:_MOST_ERRORS]) + more


def _told(what: str, error: Exception, endpoint: Endpoint, tries: int) -> TransportError:
    refused, where = Refused.of(error), endpoint.base_url
    if refused is None or refused.passes:
        return NoAnswer(f"{what}: {failed(error, endpoint, tries)}", fatal=True)
    if refused.fatal and refused.status not in _ABSENT:
        return TransportError(f"{what}: {failed(error, endpoint, tries)}", fatal=True)
    if refused.status in _ABSENT:
        said = (
            f"{where} has no batch API (HTTP {refused.status} at {what}); leave `batch` out, or "
            "name an endpoint that has one"
        )
    else:
        said = f"{where} refuses the file (HTTP {refused.status} at {what}): {refused.message}"
    return TransportError(endpoint.blotted(said), fatal=True)
