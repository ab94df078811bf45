"""Runs read back from inspect-ai's logs: one for every question and epoch of every arm."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from inspect_ai.log import EvalLog, EvalSample, list_eval_logs, read_eval_log

Value = TypeVar("Value")

#: The file in a folder of logs that says which arms belong to the suite that was run last.
NOTE = "suite.json"


class LogsError(ValueError):
    """There is nothing to report on; the message says where it looked."""


@dataclass(frozen=True)
class Run:
    """One answer to one question.

    Attributes:
        outcome: ``answered``, ``cut`` (by a limit of tokens), ``refused`` (by the server), or
            ``error`` (no answer after all retries); the last two have no figures.
        retries: requests that were sent again for it.
        critical_path: tokens; those of the output where it did not fork.
        net: the server's net parallelism, None where it gives none.
        seconds: from sending the request to the answer's end, as the client saw it.
    """

    question: str
    epoch: int
    outcome: str
    correct: bool
    answer: str | None = None
    extraction: str = "none"
    error: str = ""
    retries: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    critical_path: int = 0
    forward_steps: int | None = None
    net: float | None = None
    forks: int = 0
    goals_not_forked: int = 0
    seconds: float | None = None
    latency: float | None = None


@dataclass(frozen=True)
class Arm:
    """Runs under one condition.

    Attributes:
        planned: how many runs there are to be; more than ``runs`` where a run was stopped.
        about: what the log says of model, server, prompt, data and sampling.
    """

    name: str
    task: str
    mode: str
    budget: int | None
    model: str
    runs: tuple[Run, ...]
    about: dict[str, Any]
    planned: int = 0

    def grouped(self, value: Callable[[Run], Value]) -> dict[str, list[Value]]:
        """``value`` of every run, by question, in the order of epochs."""
        found: dict[str, list[Value]] = {}
        for run in sorted(self.runs, key=lambda one: one.epoch):
            found.setdefault(run.question, []).append(value(run))
        return found

    def by_question(self, value: Callable[[Run], float]) -> dict[str, list[float]]:
        """:meth:`grouped`, of numbers."""
        return self.grouped(lambda run: float(value(run)))

    @property
    def fingerprint(self) -> str:
        """What :func:`.running.fingerprint` gave it; empty where something else ran it."""
        return str(self.about.get("fingerprint") or "")

    @property
    def not_asked(self) -> int:
        """Runs that are missing because the suite was stopped before them."""
        return max(self.planned - len(self.runs), 0)

    @property
    def answered(self) -> list[Run]:
        """Runs that have figures."""
        return [run for run in self.runs if run.outcome in ("answered", "cut")]


def shortened(message: str, most: int = 160) -> str:
    """A message in one line."""
    line = " ".join(message.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def read_arms(folder: Path) -> list[Arm]:
    """The arms of a folder of logs, in the order of the suite; of an arm that was run again
    the latest log. Where the folder has been told by ``multiverse eval run`` which arms its suite
    has, these and only these.

    Raises:
        LogsError: no log is there.
    """
    if not folder.is_dir():
        raise LogsError(f"{folder} is no folder; logs are where `multiverse eval run` put them")
    noted = read_note(folder)
    if noted is None:
        arms = {arm.name: arm for arm in logged(folder)}
    else:
        wanted = {one for prints in noted.values() for one in prints}
        known = {arm.fingerprint: arm for arm in logged(folder)}
        arms = {one: arm for one, arm in known.items() if one in wanted}
    if not arms:
        raise LogsError(f"{folder} holds no log with an answer in it")
    return _told_apart(sorted(arms.values(), key=_place))


def logged(folder: Path) -> Iterator[Arm]:
    """The arm of every log that holds an answer, from the oldest log to the latest.

    Raises:
        LogsError: as :func:`read_log`.
    """
    for path in log_files(folder):
        arm = _arm(read_log(path))
        if arm is not None:
            yield arm


def log_files(folder: Path) -> list[Path]:
    """The logs in ``folder`` and below, from the oldest to the latest."""
    found = list_eval_logs(str(folder))
    return [
        Path(info.name.removeprefix("file://")) for info in sorted(found, key=lambda one: one.name)
    ]


def read_log(path: Path) -> EvalLog:
    """One log.

    Raises:
        LogsError: it is damaged, or no log.
    """
    try:
        return read_eval_log(str(path))
    except Exception as error:  # of zip, of JSON, of pydantic
        reason = " ".join(str(error).split())[:200]
        raise LogsError(
            f"{path} is damaged, or no log ({reason}); move it out of the folder: what it alone "
            "answered is then asked again"
        ) from error


def _told_apart(arms: list[Arm]) -> list[Arm]:
    """``arms``, those of one name with what they were asked differently in their names."""
    alike = Counter(arm.name for arm in arms)
    return [
        replace(arm, name=f"{arm.name} {_difference(arm, arms)}") if alike[arm.name] > 1 else arm
        for arm in arms
    ]


def _difference(arm: Arm, arms: list[Arm]) -> str:
    asked = [other.about["task_args"] for other in arms if other.name == arm.name]
    names = sorted({name for one in asked for name in one})
    return ", ".join(
        f"{name} {_short(arm.about['task_args'].get(name), name)}"
        for name in names
        if any(one.get(name) != asked[0].get(name) for one in asked)
    )


def _short(value: Any, name: str) -> Any:
    return Path(value).name if name == "data" and value else value


def read_note(folder: Path) -> dict[str, list[str]] | None:
    """The fingerprints of a suite's arms by server; None without a note that can be read."""
    try:
        noted = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return {str(server): list(map(str, prints)) for server, prints in noted.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def _place(arm: Arm) -> int:
    return int(arm.about.get("number", 0))


def _arm(log: EvalLog) -> Arm | None:
    if not log.samples:
        return None
    spec = log.eval
    about = dict(spec.metadata or {})
    mode, budget = about.get("mode", "parallel"), about.get("budget")
    model = spec.model.removeprefix("multiverse/")
    task = spec.task.rpartition("/")[2]
    words = [task, about.get("server"), mode, f"budget {budget}" if budget else None]
    name = " ".join(str(word) for word in words if word)
    about |= {
        "model": model,
        "packages": spec.packages,
        "created": spec.created,
        "sampling": _sampling(log),
        "epochs": spec.config.epochs,
        "status": log.status,
        "task_args": spec.task_args,
    }
    runs = tuple(_run(sample) for sample in log.samples)
    planned = len(spec.dataset.sample_ids or []) * (spec.config.epochs or 1)
    return Arm(name, task, mode, budget, model, runs, about, planned)


def _sampling(log: EvalLog) -> dict[str, Any]:
    """How the model was to sample, without what is no sampling."""
    config = log.plan.config.model_dump(exclude_none=True)
    names = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty")
    return {name: config[name] for name in names if name in config}


def _run(sample: EvalSample) -> Run:
    question, epoch = str(sample.id), sample.epoch
    retries = int(sample.metadata.get("retries", 0)) + len(sample.error_retries or [])
    if sample.error is not None:
        return Run(question, epoch, "error", False, error=sample.error.message, retries=retries)
    scores = sample.scores or {}
    graded = next((scores[name] for name in ("answer", "instructions") if name in scores), None)
    said = (graded.metadata or {}) if graded else {}
    figures = (scores["parallelism"].metadata or {}) if "parallelism" in scores else {}
    correct = graded is not None and graded.value == "C"
    if said.get("refused"):
        error = graded.explanation or "" if graded else ""
        return Run(question, epoch, "refused", False, error=error, retries=retries)
    return Run(
        question,
        epoch,
        "cut" if said.get("truncated") else "answered",
        correct,
        answer=said.get("answer"),
        extraction=said.get("extraction", "none"),
        retries=retries,
        prompt_tokens=figures.get("prompt_tokens", 0),
        tokens=figures.get("completion_tokens", 0),
        critical_path=figures.get("critical_path_tokens", 0),
        forward_steps=figures.get("forward_steps"),
        net=figures.get("net_parallelism"),
        forks=figures.get("forks") or 0,
        goals_not_forked=figures.get("goals_not_forked") or 0,
        seconds=figures.get("seconds"),
        latency=figures.get("e2e_latency"),
    )
