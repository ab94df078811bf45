"""Drives the stages from a cassette, without server, store or event loop."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_multiverse.data_pipeline.recipe import Recipe
from sglang_multiverse.data_pipeline.record import Record, Rejection
from sglang_multiverse.data_pipeline.stages import curate
from sglang_multiverse.data_pipeline.teacher.call import Call, Failure, Reply
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette
from sglang_multiverse.data_pipeline.teacher.task import Task

from .replay import CASSETTES

FAILURES: dict[str, Failure] = {"length": "length", "content_filter": "content-filter"}


@dataclass
class Driven:
    """What became of a cassette: the result (an empty rejection where its replies ran out), the
    tasks asked (``fill/2``), and every call."""

    result: Record | Rejection
    asked: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


def drive(cassette: Cassette, recipe: Recipe | None = None) -> Driven:
    steps = curate(cassette.record(), recipe or Recipe("teacher"))
    driven = Driven(Rejection("", "", ""))
    try:
        call = next(steps)
        while True:
            task = Task.read(call.messages[-1].content)
            assert task is not None
            driven.asked.append(f"{task.name}/{task.attempt}")
            driven.calls.append(call)
            replies = cassette.replies.get(task.name, ())
            if task.attempt > len(replies):
                return driven
            replied = replies[task.attempt - 1]
            failure: Failure | None = FAILURES.get(replied.finish_reason)
            if replied.refusal is not None:
                failure = "refusal"
            call = steps.send(Reply(replied.refusal or replied.text or "", failure))
    except StopIteration as end:
        driven.result = end.value
    return driven


__all__ = ["CASSETTES", "Driven", "drive"]
