"""Runs a suite: server by server, arm by arm, what is missing of it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from inspect_ai import Task, eval_set
from inspect_ai.log import EvalLog
from inspect_ai.model import get_model

from .. import __version__
from ..endpoint import Endpoint, ServerError
from ..server import Server
from ..tiny import MACHINES_DIR, MODEL_DIR
from .provider import KEY_VARIABLE
from .runs import NOTE, Arm, logged, read_note, shortened
from .suite import Sampling, ServerOf, Suite, SuiteError
from .tasks import TASKS, listeners

#: Models that ship, by the name a suite gives them.
SHIPPED = {"machines": MACHINES_DIR, "sums": MODEL_DIR}

Say = Callable[[str], None]


class Interrupted(Exception):
    """The run was stopped by its user; what was answered is kept."""


@dataclass
class Progress:
    """How far a suite is, said at most every ``every`` seconds; ``before`` answers were there."""

    total: int
    say: Say
    before: int = 0
    every: float = 10.0
    done: int = 0
    refused: int = 0
    failed: int = 0
    why: str = ""
    begun: float = field(default_factory=time.monotonic)
    said: float = 0.0

    def one(self, why: tuple[str, bool] | None) -> None:
        self.done += 1
        if why is not None:
            self.why, refused = why
            self.refused += refused
            self.failed += not refused
        now = time.monotonic()
        if now - self.said >= self.every or self.before + self.done == self.total:
            self.said = now
            self.say(self.line(now))

    def line(self, now: float) -> str:
        spent = now - self.begun
        missing = max(self.total - self.before - self.done, 0)
        left = spent / self.done * missing if self.done else 0.0
        counts = {"refused": self.refused, "without an answer": self.failed}
        not_well = [f"{count} {what}" for what, count in counts.items() if count]
        said = f", {' and '.join(not_well)} (last: {shortened(self.why)})" if not_well else ""
        return (
            f"{self.total - missing} of {self.total} answers{said}, {_duration(spent)} so far, "
            f"about {_duration(left)} left"
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def run(suite: Suite, folder: Path, say: Say = lambda line: print(line, file=sys.stderr)) -> bool:
    """Ask everything of ``suite`` that ``folder`` has no answer to yet. Logs go to
    ``folder/SERVER``.

    Returns:
        Whether every question has an answer now.

    Raises:
        SuiteError: a server cannot be asked, or started.
        Interrupted: Ctrl-C; the next run goes on from there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            return _run(suite, folder, say)
    except Timeout as error:
        raise SuiteError(
            f"another run has {folder} in hand; wait for it, or name another"
        ) from error
    except OSError as error:
        raise SuiteError(f"{folder}: {error.strerror or error}") from error


def _run(suite: Suite, folder: Path, say: Say) -> bool:
    whole, before = True, 0
    for name, server in suite.servers.items():
        arms = suite.of_server(name)
        if not arms:
            continue
        with _running(name, server, say) as (endpoint, about):
            whole &= _run_server(suite, name, server, arms, before, endpoint, about, folder, say)
        before += len(arms)
    return whole


def _run_server(
    suite: Suite,
    name: str,
    server: ServerOf,
    arms: list[dict[str, Any]],
    before: int,
    endpoint: Endpoint,
    about: dict[str, Any],
    folder: Path,
    say: Say,
) -> bool:
    served = server.model or _served_name(endpoint)
    made, prints = [], []
    several = len(suite.servers) > 1
    for number, arm in enumerate(arms, start=before):
        arguments = {key: value for key, value in arm.items() if key != "task"}
        one = TASKS[arm["task"]](**arguments)
        prints.append(fingerprint(name, server, served, arm, suite.sampling))
        place = {
            "server": name if several else None,
            "suite": suite.name,
            "number": number,
            "fingerprint": prints[-1],
        }
        one.metadata = {**(one.metadata or {}), **place}
        made.append(one)
    known = _known(folder / name)
    _check_questions(folder / name, known, dict(zip(prints, made, strict=True)))
    note(folder, name, prints)
    total = sum(len(one.dataset) * (one.epochs or 1) for one in made)
    model = get_model(f"multiverse/{served}", base_url=endpoint.url, memoize=False)
    mine = [known[one] for one in prints if one in known]
    answered = sum(run.outcome != "error" for arm in mine for run in arm.runs)
    progress = Progress(total, say, before=answered)
    of_them = f", {answered} of them known" if answered else ""
    say(f"{name}: {len(made)} arms, {total} answers{of_them}, of {served} at {endpoint.url}")
    listeners.append(progress.one)
    try:
        success, logs = eval_set(
            made,
            log_dir=str(folder / name),
            model=model,
            retry_attempts=1,
            retry_wait=1,
            fail_on_error=True,
            continue_on_fail=True,
            max_connections=suite.connections,
            max_samples=suite.connections,
            adaptive_connections=False,
            max_retries=suite.retries,
            max_tasks=1,
            display="none",
            log_dir_allow_dirty=True,
            ctl_server=False,
            metadata=about,
            **suite.sampling.model_dump(exclude_none=True),
        )
    finally:
        listeners.remove(progress.one)
    if len(logs) < len(made) or any(log.status == "cancelled" for log in logs):
        raise Interrupted  # which eval_set calls a success
    whole = bool(success) and all(log.status == "success" for log in logs)
    if not whole:
        known = _known(folder / name)
        why = _why(logs, [known[one] for one in prints if one in known])
        say(f"{name}: instead of an answer, most often: {why}")
    return whole


def _why(logs: list[EvalLog], arms: list[Arm]) -> str:
    """What there was most often instead of an answer."""
    said = Counter(run.error for arm in arms for run in arm.runs if run.outcome == "error")
    said.update(log.error.message for log in logs if log.error is not None)
    return " ".join(max(said, key=said.__getitem__, default="nothing was said").split())[:300]


def _known(folder: Path) -> dict[str, Arm]:
    """The arms that there are logs of, by fingerprint."""
    return {arm.fingerprint: arm for arm in logged(folder)} if folder.is_dir() else {}


def _check_questions(folder: Path, known: dict[str, Arm], tasks: dict[str, Task]) -> None:
    """An arm is known by the name of its questions' file, not by what is in it."""
    for one, task in tasks.items():
        now = (task.metadata or {})["data"]
        if one in known and known[one].about["data"]["sha256"] != now["sha256"]:
            raise SuiteError(
                f"the questions of {now['source']} are others than when {folder} was begun; name "
                "another folder by --out"
            )


@contextmanager
def _running(name: str, server: ServerOf, say: Say) -> Iterator[tuple[Endpoint, dict[str, Any]]]:
    """The server and what is known of it; one to start is stopped at the end."""
    try:
        if server.base_url is not None:
            url = server.base_url.rstrip("/").removesuffix("/v1")
            endpoint = Endpoint(url, os.environ.get(KEY_VARIABLE))
            yield endpoint, _about(endpoint, server)
            return
        assert server.serve is not None
        place = SHIPPED.get(server.serve, server.serve)
        say(f"{name}: starting {place}")
        flags = list(server.flags)
        if "--served-model-name" not in flags:
            flags += ["--served-model-name", server.serve if server.serve in SHIPPED else name]
        with Server(place, flags=flags, plugin=server.plugin) as started:
            yield started, _about(started, server)
    except ServerError as error:
        key = f"; its key is read from {KEY_VARIABLE}" if "HTTP 401" in str(error) else ""
        raise SuiteError(f"server {name!r}: {error}{key}") from error


def _gpu(endpoint: Endpoint) -> str | None:
    """The accelerator of a server that was started here."""
    if not isinstance(endpoint, Server) or endpoint.device == "cpu":
        return None
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else endpoint.device


def fingerprint(
    name: str, server: ServerOf, model: str, arm: dict[str, Any], sampling: Sampling
) -> str:
    """Changes with what an arm's answers depend on, as far as it is known here: of a server to
    start with its model and plugin too. Flags are no part of it, since a run that ended for want
    of memory is to go on with others."""
    told: list[Any] = [name, model, arm, sampling.model_dump()]
    if server.serve is not None:
        told.append([server.serve, server.plugin])
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def note(folder: Path, server: str, prints: list[str]) -> None:
    """Note which arms of ``server`` the suite has that was run last: the folder may hold others."""
    known = read_note(folder) or {}
    (folder / NOTE).write_text(json.dumps({**known, server: prints}))


def _served_name(endpoint: Endpoint) -> str:
    try:
        return str(endpoint.request("/v1/models")["data"][0]["id"])
    except (ValueError, LookupError, TypeError) as error:
        raise ServerError(
            f"{endpoint.url}/v1/models names no model ({error!r}); name it by `model`"
        ) from error


def _about(endpoint: Endpoint, server: ServerOf) -> dict[str, Any]:
    """What a report's head says of a server: versions, model, device, flags."""
    try:
        said = endpoint.request("/server_info")
    except (ServerError, ValueError):
        said = {}
    if not isinstance(said, dict):
        said = {}
    wanted = (
        "version",
        "model_path",
        "revision",
        "served_model_name",
        "dtype",
        "kv_cache_dtype",
        "quantization",
        "device",
        "tp_size",
        "dp_size",
        "attention_backend",
        "mem_fraction_static",
        "max_running_requests",
        "disable_radix_cache",
        "speculative_algorithm",
        "enable_deterministic_inference",
    )
    shipped = {"model_path": f"{server.serve} (ships)"} if server.serve in SHIPPED else {}
    return {
        "plugin_version": __version__,
        "plugin": server.plugin,
        "revision": server.revision,
        "gpu": server.gpu or _gpu(endpoint),
        "flags": list(server.flags),
        "server_info": {key: said[key] for key in wanted if said.get(key) is not None} | shipped,
    }
