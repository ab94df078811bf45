"""Requests to a running server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any


class ServerError(RuntimeError):
    """The server did not come up, refused a request, or went away; the message says which."""


class Endpoint:
    """The HTTP interface of the server at ``url``, which may ask for a key."""

    def __init__(self, url: str, api_key: str | None = None):
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def request(
        self, path: str, body: Any = None, *, timeout: float = 600, raw: bool = False
    ) -> Any:
        """POST ``body`` (GET without one) and decode the JSON answer, or return it as ``raw`` text.

        Raises:
            ServerError: HTTP status 400 or above, with the answer's text; or no answer.
        """
        with self._open(path, body, timeout) as answer:
            try:
                text = answer.read().decode()
            except (OSError, HTTPException) as error:
                raise ServerError(f"{path}: {error!r}{self._circumstances()}") from error
        return text if raw or not text else json.loads(text)

    def stream(self, path: str, body: Any, *, timeout: float = 600) -> Iterator[Any]:
        """POST ``body`` and yield each server-sent event, decoded.

        Raises:
            ServerError: as :meth:`request`.
        """
        with self._open(path, body, timeout) as answer:
            for line in answer:
                if line.startswith(b"data:"):
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    yield json.loads(data)

    def answers(self, *, timeout: float = 5) -> bool:
        """Whether it is up and healthy."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=timeout) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _open(self, path: str, body: Any, timeout: float) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path,
            data=data,
            headers={"Content-Type": "application/json", **self._headers},
        )
        try:
            return urllib.request.urlopen(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            raise ServerError(f"{path}: HTTP {error.code}: {error.read().decode()}") from error
        except OSError as error:
            raise ServerError(f"{path}: {error}{self._circumstances()}") from error
        except HTTPException as error:  # which may quote lines of what was said
            raise ServerError(f"{path}: {error!r}{self._circumstances()}") from error

    def _circumstances(self) -> str:
        """What a message about a request without an answer goes on with."""
        return f"; is a server running at {self.url}?"
