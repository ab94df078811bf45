"""Logs that may be shown: without the text of questions that must not be."""

from __future__ import annotations

from pathlib import Path

from inspect_ai.log import EvalLog, write_eval_log
from inspect_ai.model import ModelOutput

from .runs import NOTE, LogsError, log_files, read_log

WITHHELD = "(withheld: its authors ask that it be not shown)"


def publish(logs: Path, out: Path) -> list[tuple[Path, bool]]:
    """Copy the logs of ``logs`` to ``out``, stripped where the task's questions are private; the
    files written, and whether they were stripped.

    Raises:
        LogsError: there is no log, or ``out`` holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise LogsError(f"{out} is not empty; name a new folder")
    found = log_files(logs) if logs.is_dir() else []
    if not found:
        raise LogsError(f"{logs} holds no log")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for one in found:
        log = read_log(one)
        private = bool(((log.eval.metadata or {}).get("data") or {}).get("private"))
        if private:
            strip(log)
        path = out / one.name
        write_eval_log(log, str(path))
        written.append((path, private))
    if (logs / NOTE).exists():
        (out / NOTE).write_bytes((logs / NOTE).read_bytes())
    return written


def strip(log: EvalLog) -> None:
    """Leave of every sample its id, scores and figures: no question, no choice, no output, no
    event that quotes them."""
    for sample in log.samples or []:
        sample.input = WITHHELD
        sample.target = WITHHELD
        sample.choices = None
        sample.messages = []
        sample.events = []
        sample.attachments = {}
        sample.store = {}
        kept = ("question", "comparison", "retries")
        sample.metadata = {key: sample.metadata[key] for key in kept if key in sample.metadata}
        sample.output = ModelOutput(
            model=sample.output.model, usage=sample.output.usage, time=sample.output.time
        )
        if sample.error is not None:
            sample.error.message = WITHHELD
            sample.error.traceback = sample.error.traceback_ansi = ""
        for score in (sample.scores or {}).values():
            score.explanation = None
    log.reductions = None
