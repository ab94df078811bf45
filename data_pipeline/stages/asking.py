"""Asking until the answer holds: a task, its check, and bounded repair."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from ..finding import Finding
from ..recipe import Recipe
from ..record import Record, Rejection
from ..teacher.call import Call, Failure, Message, Reply, digest
from ..teacher.task import Task
from .payload import refuses

Value = TypeVar("Value")

#: What a stage is to its driver.
Steps = Generator[Call, Reply, Record | Rejection]

#: Findings named in one repair request; an LLM that is told fifty things mends none.
MOST_FINDINGS = 12

_FAILURES: dict[Failure, str] = {
    "length": "the reply reached `max_tokens`, with more room too; raise it or split the item",
    "too-long": "the endpoint takes no request of this length",
    "oversized": "the reply is longer than `max_tokens` allows",
    "content-filter": "the endpoint's content filter cut the reply",
    "refusal": "the model refused",
    "empty-reply": "the reply holds no text",
    "unfinished": "the endpoint ended the reply for another reason than that it was done",
}


@dataclass(frozen=True)
class Reading(Generic[Value]):
    """What a reply says: a value, or what is wrong with it. ``text`` and ``source`` are what the
    spans of the findings count in."""

    value: Value | None
    findings: Sequence[Finding] = ()
    text: str = ""
    source: str = ""


@dataclass(frozen=True)
class Question:
    """One task for the LLM. ``messages`` lack what ``ask`` adds: the prompt ``system``, which says
    what kind of work this is, before them, and the task line of every attempt."""

    stage: str
    version: str
    prompt: str
    messages: tuple[Message, ...]
    subject: str = ""
    system: str = "curator"


def ask(
    record: Record,
    recipe: Recipe,
    question: Question,
    read: Callable[[str], Reading[Value]],
) -> Generator[Call, Reply, Value | Rejection]:
    """Ask ``question`` until ``read`` finds nothing wrong, ``recipe.attempts`` times at most.

    Codes and spans of what was wrong go back with the reply they are about. A reply that failed
    (refused, cut) is asked for afresh; one that was cut with twice the room, ``recipe.room`` times.
    What is too long for the endpoint is not asked again.
    """
    wrong: tuple[Message, ...] = ()
    findings: list[Finding] = []
    cut = 0
    for attempt in range(1, recipe.attempts + 1):
        room = recipe.sampling.max_tokens << min(cut, recipe.room)
        reply = yield _call(record, recipe, question, wrong, attempt, room)
        failure = reply.failure
        if failure is None and refuses(reply.text):
            failure = "refusal"
        if failure is not None:
            about = f": {reply.text[:200]}" if failure in ("refusal", "too-long") else ""
            if failure == "unfinished":
                about = f", {reply.text.splitlines()[0]}"
            findings = [Finding(failure, _FAILURES[failure] + about)]
            if failure == "too-long":
                break
            cut += failure == "length"
            wrong = ()
            continue
        reading = read(reply.text)
        findings = list(reading.findings)
        if not findings:
            assert reading.value is not None
            return reading.value
        repair = recipe.prompts["repair"].fill(findings=_listed(reading))
        wrong = (Message("assistant", reply.text), Message("user", repair))
    return Rejection.of(question.stage, findings)


def _call(
    record: Record,
    recipe: Recipe,
    question: Question,
    wrong: tuple[Message, ...],
    attempt: int,
    room: int,
) -> Call:
    task = Task(question.prompt, question.subject, attempt)
    system = Message("system", recipe.prompts[question.system].fill())
    *before, last = [system, *question.messages, *wrong]
    prompts = [question.system, question.prompt, *(["repair"] if wrong else [])]
    return Call(
        item=record.id,
        stage=question.prompt,
        stage_version=question.version,
        prompt=question.prompt,
        prompt_hash=digest([recipe.prompts[name].hash for name in prompts]),
        model=recipe.model,
        sampling=replace(recipe.sampling, max_tokens=room),
        messages=(*before, Message(last.role, f"{last.content}\n\n{task}")),
        attempt=attempt,
        subject=question.subject,
    )


def _listed(reading: Reading[Value]) -> str:
    lines = []
    for finding in reading.findings[:MOST_FINDINGS]:
        text = reading.source if finding.span_in == "source" else reading.text
        lines.append(f"- {finding.code}: {finding.message}{_excerpt(text, finding.span)}")
    more = len(reading.findings) - MOST_FINDINGS
    if more > 0:
        lines.append(f"- and {more} more of the like")
    return "\n".join(lines)


def _excerpt(text: str, span: tuple[int, int] | None) -> str:
    if span is None or span == (0, 0):
        return ""
    start, end = span
    around = " ".join(text[max(start - 20, 0) : max(min(end, start + 160), start + 40)].split())
    return f" (characters {start} to {end}, near {around!r})" if around else ""
