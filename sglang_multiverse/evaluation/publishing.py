"""Logs that may be shown: without the text of questions that must not be."""

from __future__ import annotations

from pathlib import Path

from inspect_ai.log import EvalError, EvalLog, EvalRetryError, EvalSample, write_eval_log
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Score

from .runs import NOTE, LogsError, log_files, read_log

WITHHELD = "(withheld: its authors ask that it be not shown)"
_WITHHELD_ERROR = EvalError(message=WITHHELD, traceback="", traceback_ansi="")


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
    event that quotes them. Answers of more than a letter, which may be a choice's own words, are
    numbered."""
    log.samples = [_stripped(sample) for sample in log.samples or []]
    numbers: dict[tuple[str, str], int] = {}
    for sample in log.samples:
        for score in (sample.scores or {}).values():
            if score.answer is not None and len(score.answer) > 1:
                number = numbers.setdefault((str(sample.id), score.answer), len(numbers) + 1)
                score.answer = f"answer {number}"
            if "answer" in (score.metadata or {}):
                score.metadata = {**(score.metadata or {}), "answer": score.answer}
    if log.error is not None:
        log.error = _WITHHELD_ERROR
    log.reductions = None


def _stripped(sample: EvalSample) -> EvalSample:
    kept = ("question", "comparison", "retries")
    scores = {
        name: Score(value=score.value, answer=score.answer, metadata=score.metadata)
        for name, score in (sample.scores or {}).items()
    }
    again = EvalRetryError(message=WITHHELD, traceback="", traceback_ansi="")
    return EvalSample(
        id=sample.id,
        epoch=sample.epoch,
        input=WITHHELD,
        target=WITHHELD,
        output=ModelOutput(
            model=sample.output.model, usage=sample.output.usage, time=sample.output.time
        ),
        scores=scores,
        metadata={key: sample.metadata[key] for key in kept if key in sample.metadata},
        model_usage=sample.model_usage,
        started_at=sample.started_at,
        completed_at=sample.completed_at,
        total_time=sample.total_time,
        working_time=sample.working_time,
        uuid=sample.uuid,
        error=None if sample.error is None else _WITHHELD_ERROR,
        error_retries=[again for _ in sample.error_retries or []] or None,
    )
