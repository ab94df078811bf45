"""Answers that are errors: which pass with time, which hold for every call, and what to do."""

from __future__ import annotations

import datetime
import email.utils
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import openai

RETRIED = frozenset([408, 409, 429])  # and every 5xx
_FATAL = frozenset([401, 402, 403, 404])
_OUT_OF_CREDIT = frozenset(["insufficient_quota", "billing_not_active"])
_TOO_LONG = re.compile(
    r"context[ _](?:length|window)|maximum context|too many (?:input )?tokens"
    r"|(?:prompt|input|request|message)s?\b.{0,40}\b(?:too long|longer than)"
    r"|max_(?:completion_)?tokens\b.{0,60}\b(?:large|exceed|at most|less than|greater)",
    re.IGNORECASE | re.DOTALL,
)
_MOVED = "; the address has moved: give `endpoint.base_url` as it is now"
_REMEDIES = {
    401: "; check the key and the variable `endpoint.api_key_env` names",
    403: "; the key may not use this model",
    402: "; the account is out of credit",
    404: "; check `endpoint.base_url` (it ends in /v1 with most servers) and the model",
}


@dataclass(frozen=True)
class Refused:
    """An answer with an HTTP status that is an error, to a request of its own or to a line of a
    batch. ``code`` and ``message`` are whatever the body held there."""

    status: int
    code: str
    message: str

    @classmethod
    def of(cls, error: Exception) -> Refused | None:
        """What ``error`` of the client says; None where it is no answer of the endpoint."""
        if not isinstance(error, openai.APIStatusError):
            return None
        return cls(error.status_code, str(error.code), str(error.message))

    @classmethod
    def read(cls, status: int, body: Any) -> Refused:
        """The answer ``status`` with the JSON value ``body``, as the client would tell it."""
        error = body.get("error", body) if isinstance(body, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        return cls(status, str(code), f"Error code: {status} - {body}")

    @property
    def passes(self) -> bool:
        """Whether the same request may be answered another time."""
        return not self._out_of_credit and (self.status in RETRIED or self.status >= 500)

    @property
    def fatal(self) -> bool:
        """Whether the next call would fare no better."""
        return self.status in _FATAL or self.moved or self._out_of_credit

    @property
    def moved(self) -> bool:
        """Whether it sends to another address."""
        return 300 <= self.status < 400

    @property
    def single(self) -> bool:
        """Whether it may hold for this request alone, where others are answered."""
        return self.status in (403, 404) and not self._out_of_credit

    @property
    def too_long(self) -> bool:
        """Whether the endpoint takes no request of this length."""
        return self.status in (400, 413, 422) and (
            self.status == 413
            or self.code == "context_length_exceeded"
            or bool(_TOO_LONG.search(self.message))
        )

    def explain(self, where: str, times: str) -> str:
        """One line for the reader. ``where``: endpoint and model; ``times``: requests it took."""
        remedy = _REMEDIES.get(self.status, "")
        if self.moved:
            remedy = _MOVED
        if self._out_of_credit:
            remedy = _REMEDIES[402]
        return f"{where}: HTTP {self.status} after {times}: {self.message}{remedy}"

    @property
    def _out_of_credit(self) -> bool:
        return self.code in _OUT_OF_CREDIT


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
