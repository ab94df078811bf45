"""The batch API of the replay server: files up and down, batches made and looked at.

A batch is run when it ends: each of its lines is answered as a request of its own would be, with
the faults of its cassette. A fault ``status`` is a line of the error file, ``garbage`` a body that
is none, ``cut`` a line that breaks off, ``hang`` a line that is missing, ``expired`` and ``code``
an error without a response. Lines come back in the opposite order.
"""

from __future__ import annotations

import email
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .replay import ReplayServer, _Handler

URL = "/v1/chat/completions"


@dataclass
class Batch:
    """A batch, and how often it was looked at."""

    id: str
    file: str
    status: str = "validating"
    looks: int = 0
    counts: tuple[int, int] = (0, 0)
    output: str | None = None
    errors: str | None = None
    refused: list[dict[str, Any]] = field(default_factory=list)

    def row(self, total: int) -> dict[str, Any]:
        completed, failed = self.counts
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": URL,
            "completion_window": "24h",
            "input_file_id": self.file,
            "created_at": 2_000_000_000,
            "status": self.status,
            "output_file_id": self.output,
            "error_file_id": self.errors,
            "errors": {"object": "list", "data": self.refused} if self.refused else None,
            "request_counts": {"total": total, "completed": completed, "failed": failed},
        }


class Desk:
    """Files and batches.

    Attributes:
        looks: times a batch is looked at before it has ended, in the status of ``end``.
        held: while set, no batch ends.
        refuse: errors that every file is refused with.
        extra: lines that stand in every output file besides.
        faults: faults by ``METHOD /path`` without ids, each met once; with ``after`` the request is
            done all the same.
        absent: paths that are not there.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Batch] = {}
        self.looks = 1
        self.end = "completed"
        self.held = threading.Event()
        self.refuse: list[dict[str, Any]] = []
        self.extra: list[bytes] = []
        self.faults: dict[str, list[dict[str, Any]]] = {}
        self.absent: set[str] = set()
        self.calls: list[str] = []
        self._lock = threading.Lock()

    def serves(self, path: str) -> bool:
        """Whether a request is one to this API."""
        return path.startswith(("/v1/files", "/v1/batches"))

    def answer(self, handler: _Handler, method: str, path: str, raw: bytes) -> None:
        """Answer a request."""
        parts = path.split("?")[0].removeprefix("/v1/").split("/")
        what = f"{method} /{parts[0]}"
        with self._lock:
            self.calls.append(what)
            fault = self.faults[what].pop(0) if self.faults.get(what) else None
            if what in self.absent or parts[0] in self.absent:
                _say(handler, *_unknown("address"))
                return
            if fault is not None and not fault.get("after"):
                handler.fail(fault)
                return
            status, value = self._do(handler, what, parts[1:], raw)
        if fault is not None:
            handler.fail(fault)
        else:
            _say(handler, status, value)

    def _do(
        self, handler: _Handler, what: str, rest: list[str], raw: bytes
    ) -> tuple[int, dict[str, Any] | bytes]:
        if what == "POST /files":
            id = self.put(_uploaded(handler.headers["Content-Type"], raw))
            return 200, {"id": id, "object": "file", "purpose": "batch", "status": "processed"}
        if what == "GET /files":
            content = self.files.get(rest[0])
            return (200, content) if content is not None else _unknown(rest[0])
        if what == "POST /batches":
            asked = json.loads(raw)
            assert (asked["endpoint"], asked["completion_window"]) == (URL, "24h")
            batch = Batch(f"batch_{len(self.batches)}", asked["input_file_id"])
            self.batches[batch.id] = batch
            return 200, self._row(batch)
        if not rest:
            data = [self._row(batch) for batch in reversed(self.batches.values())]
            return 200, {"object": "list", "data": data, "has_more": False}
        found = self.batches.get(rest[0])
        if found is None:
            return _unknown(rest[0])
        self._look(handler.server, found)
        return 200, self._row(found)

    def put(self, content: bytes) -> str:
        id = f"file-{len(self.files)}"
        self.files[id] = content
        return id

    def _row(self, batch: Batch) -> dict[str, Any]:
        return batch.row(len(self.files[batch.file].splitlines()))

    def _look(self, server: ReplayServer, batch: Batch) -> None:
        batch.looks += 1
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return
        batch.refused = self.refuse or _wrong(self.files[batch.file])
        if batch.refused:
            batch.status = "failed"
        elif self.held.is_set() or batch.looks < self.looks:
            batch.status = "in_progress"
        else:
            self._run(server, batch)

    def _run(self, server: ReplayServer, batch: Batch) -> None:
        output = list(self.extra)
        errors: list[bytes] = []
        for line in reversed(self.files[batch.file].splitlines()):
            asked = json.loads(line)
            answer = _Line.of(server, asked["body"])
            if answer is not None:
                (output if answer.fine else errors).append(answer.line(asked["custom_id"]))
        batch.status = self.end
        batch.counts = (len(output), len(errors))
        batch.output = self.put(b"\n".join(output) + b"\n") if output else None
        batch.errors = self.put(b"\n".join(errors) + b"\n") if errors else None


@dataclass
class _Line:
    """One line of an answer."""

    status: int = 0
    body: Any = None
    error: dict[str, Any] | None = None
    cut: bool = False

    @property
    def fine(self) -> bool:
        return self.status == 200

    @classmethod
    def of(cls, server: ReplayServer, body: dict[str, Any]) -> _Line | None:
        """The answer to a request; None where there is none."""
        said: list[_Line] = []
        handler: Any = server.RequestHandlerClass

        class Recorder(handler):  # type: ignore[misc]
            def __init__(self) -> None:
                self.server = server
                self.headers = {"Authorization": f"Bearer {server.key}"}

            def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                try:
                    said.append(cls(status, json.loads(body)))
                except (ValueError, RecursionError):
                    said.append(cls(status, body.decode("utf-8", "replace")[:1000]))

            def fail(self, fault: dict[str, Any]) -> None:
                if "garbage" in fault:
                    said.append(cls(200, fault["garbage"]))
                elif "cut" in fault:
                    said.append(cls(200, {}, cut=True))
                elif "expired" in fault:
                    said.append(cls(error={"code": "batch_expired", "message": "too late"}))
                elif "status" not in fault and "code" in fault:
                    said.append(cls(error={"code": fault["code"], "message": "scripted fault"}))
                elif "hang" not in fault:
                    super().fail(fault)

        Recorder().answer(body)
        return said[0] if said else None

    def line(self, id: str) -> bytes:
        response = {"status_code": self.status, "request_id": "r", "body": self.body}
        value = {
            "id": f"batch_req_{id[:8]}",
            "custom_id": id,
            "response": response if self.error is None else None,
            "error": self.error,
        }
        line = json.dumps(value).encode()
        return line[:40] if self.cut else line


def _say(handler: _Handler, status: int, value: dict[str, Any] | bytes) -> None:
    handler.send(status, value if isinstance(value, bytes) else json.dumps(value).encode(), {})


def _unknown(id: str) -> tuple[int, dict[str, Any]]:
    return 404, {"error": {"message": f"no such object: {id}", "code": None}}


def _uploaded(kind: str, raw: bytes) -> bytes:
    """The file of a form."""
    form = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + raw)
    parts = {part.get_param("name", header="Content-Disposition"): part for part in form.walk()}
    assert parts["purpose"].get_payload() == "batch"
    content = parts["file"].get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


def _wrong(content: bytes) -> list[dict[str, Any]]:
    """What is wrong with a file."""
    ids = set()
    for number, line in enumerate(content.splitlines(), 1):
        asked = json.loads(line)
        if asked["url"] != URL or asked["method"] != "POST" or asked["custom_id"] in ids:
            return [{"code": "invalid_request", "message": "a bad line", "line": number}]
        ids.add(asked["custom_id"])
    return [] if ids else [{"code": "empty_file", "message": "no lines", "line": None}]
