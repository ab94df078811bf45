"""What must hold, whatever was asked: of every answer, of the log, and of a server at rest."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .wire import Answer, Call, Wire

#: Words of SGLang's own memory checks and of a scheduler that died.
CRIES = ("leak", "double free", "use-after-free", "Scheduler hit an exception")
#: Errors the engine names: too little memory, an abort, a full queue, a pause.
NAMED = re.compile(r"abort|does not fit|out of memory|queue|paus|retract", re.IGNORECASE)
_OURS = re.compile(r"sglang_multiverse|/patches/\w+\.py")
_TRACE = re.compile(
    r"Traceback \(most recent call last\):\n(?:.*\n)*?(?=\S*\w*(?:Error|Exception))"
)
#: Seconds a server may take to come to rest once every request has been answered.
REST = 60.0


@dataclass
class Violation:
    """Something that must not happen.

    Attributes:
        what: which invariant.
        detail: what was seen instead.
        calls: the requests that were part of it, as plain JSON.
    """

    what: str
    detail: str
    calls: list[dict[str, Any]] = field(default_factory=list)


def of_answer(answer: Answer) -> list[Violation]:
    """What is wrong with one answer, by itself."""
    call = answer.call
    if answer.left:
        return []
    found: list[tuple[str, str]] = []
    if answer.fault is not None:
        found.append(("every request is answered", answer.fault))
    elif answer.status is None:
        found.append(("every request is answered", "nothing came"))
    elif call.status is not None and answer.status != call.status:
        found.append((f"{call.kind} is answered {call.status}", _short(answer)))
    elif answer.status >= 500:
        if not NAMED.search(answer.text) and not unhandled(answer):
            found.append(("no server error without a reason", _short(answer)))
    elif answer.status == 200 and call.path in _FORMS:
        try:
            found += _FORMS[call.path](answer)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            seen = str(answer.events[-1:]) if call.stream else answer.text
            found.append(("answers are of one form", f"{error!r}: {seen[:300]}"))
    return [Violation(what, detail, [call.told()]) for what, detail in found]


def unhandled(answer: Answer) -> bool:
    """An exception in SGLang's HTTP layer, which has no words for it; the log says whose it is."""
    return answer.status == 500 and answer.text.strip() in ("Internal Server Error", "")


def _short(answer: Answer) -> str:
    return f"HTTP {answer.status}: {answer.text[:300]}"


def _generate(answer: Answer) -> list[tuple[str, str]]:
    call = answer.call
    found: list[tuple[str, str]] = []
    finals = _final_answers(answer, found)
    for final in finals:
        found += _final(call, final)
    if call.batch and len(finals) != call.batch and not _refused(answer):
        found.append(("a batch is answered whole", f"{len(finals)} of {call.batch}"))
    return found


def _refused(answer: Answer) -> bool:
    """An error in the course of a stream stands in an event."""
    return any(isinstance(event, dict) and "error" in event for event in answer.events)


def _final_answers(answer: Answer, found: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The finished answers; what is wrong on the way goes to ``found``."""
    if not answer.call.stream:
        whole = answer.json()
        return whole if isinstance(whole, list) else [whole]
    last: dict[Any, dict[str, Any]] = {}
    for event in answer.events:
        if "not_json" in event:
            found.append(("events are JSON", str(event)[:200]))
            continue
        if "error" in event:
            message = str(event["error"])
            if not NAMED.search(message) and _code(event["error"]) >= 500:
                found.append(("no server error without a reason", message[:300]))
            continue
        key = event.get("index", 0), event["meta_info"]["id"]
        before = last.get(key)
        if before is not None:
            if before["meta_info"]["finish_reason"] is not None:
                found.append(("no event after the finish", str(event)[:300]))
            for part in ("output_ids", "text"):
                was, now = before.get(part), event.get(part)
                # A character of several tokens stands as U+FFFD until it is whole.
                if was is not None and now[: len(was)] != was and "\ufffd" not in str(was):
                    found.append(("streams only grow", f"{part}: {was!r} then {now!r}"[:600]))
        last[key] = event
    finals = list(last.values())
    if not _refused(answer) and any(f["meta_info"]["finish_reason"] is None for f in finals):
        found.append(("a stream ends with a finish reason", str(answer.events[-1])[:300]))
    return finals


def _code(error: Any) -> int:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 400


def _final(call: Call, final: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    meta, ids = final["meta_info"], final.get("output_ids")
    reason = (meta.get("finish_reason") or {}).get("type")
    if ids is None or reason == "abort":
        return []
    tokens = meta["completion_tokens"]
    if tokens != len(ids):
        found.append(("completion_tokens counts output_ids", f"{tokens}, {len(ids)} ids"))
    if isinstance(call.budget, int) and len(ids) > max(call.budget, 0):
        found.append(("max_new_tokens bounds the answer", f"{len(ids)} of {call.budget}"))
    spans = meta.get("multiverse_injected", [])
    if any(not 0 <= a < b <= len(ids) for a, b in spans):
        found.append(("injected spans lie in the answer", f"{spans}, {len(ids)} ids"))
    entries = meta.get("output_token_logprobs")
    # To max_new_tokens 0 SGLang gives no id and the logprob of the token it did not take.
    if entries is not None and call.budget != 0 and [entry[1] for entry in entries] != list(ids):
        found.append(("a logprob for every token", f"{len(entries)} for {len(ids)} ids"))
    if call.output_ids is not None and list(ids) != call.output_ids:
        at = next(
            (i for i, (a, b) in enumerate(zip(ids, call.output_ids, strict=False)) if a != b),
            min(len(ids), len(call.output_ids)),
        )
        detail = f"differs at {at}: {ids[at : at + 8]} instead of {call.output_ids[at : at + 8]}"
        found.append(("a forced answer is the one forced", f"{detail}, {meta['finish_reason']}"))
    return found


def _openai(answer: Answer) -> list[tuple[str, str]]:
    call = answer.call
    if not call.stream:
        whole = answer.json()
        said, n = whole["usage"]["completion_tokens"], len(whole["choices"])
        if call.budget is not None and said > max(call.budget, 0) * n:
            return [("max_tokens bounds the answer", f"{said} of {call.budget} × {n}")]
        return []
    found, finished = [], set()
    for event in answer.events:
        if "not_json" in event:
            found.append(("events are JSON", str(event)[:200]))
        elif "error" in event:
            if not NAMED.search(str(event["error"])) and _code(event["error"]) >= 500:
                found.append(("no server error without a reason", str(event["error"])[:300]))
            return found
        for choice in event.get("choices", ()):
            content = (choice.get("delta") or {}).get("content") or choice.get("text")
            if content and choice["index"] in finished:
                found.append(("no text after the finish", str(event)[:300]))
            if choice.get("finish_reason"):
                finished.add(choice["index"])
    if answer.events and not finished:
        found.append(("a stream ends with a finish reason", str(answer.events[-1])[:300]))
    return found


_FORMS = {
    "/generate": _generate,
    "/v1/chat/completions": _openai,
    "/v1/completions": _openai,
}


def content_of(answer: Answer) -> tuple[str, str] | None:
    """Text and finish reason of a single answer, streamed or not; None if there is none."""
    if answer.left or answer.fault is not None or answer.status != 200 or _refused(answer):
        return None
    if answer.call.stream and not answer.events:
        return None
    if answer.call.path == "/generate":
        final = answer.events[-1] if answer.call.stream else answer.json()
        return final["text"], final["meta_info"]["finish_reason"]["type"]
    if not answer.call.stream:
        choice = answer.json()["choices"][0]
        message = choice["message"]
        text = f"{message.get('reasoning_content') or ''}\0{message.get('content') or ''}"
        return text, choice["finish_reason"]
    said, thought, reason = "", "", ""
    for event in answer.events:
        for choice in event.get("choices", ()):
            delta = choice.get("delta") or {}
            said += delta.get("content") or ""
            thought += delta.get("reasoning_content") or ""
            reason = choice.get("finish_reason") or reason
    return f"{thought}\0{said}", reason


def of_twins(answers: Sequence[Answer]) -> list[Violation]:
    """Calls that must get the same answer, streamed or not."""
    twins: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.call.twin is not None:
            twins.setdefault(answer.call.twin, []).append(answer)
    found = []
    for group in twins.values():
        told = [content for content in map(content_of, group) if content is not None]
        # A budget spent inside a block cuts paths where they stand: that is a matter of timing.
        said = {text for text, reason in told if reason == "stop"}
        if len(said) > 1:
            detail = " / ".join(repr(text[:400]) for text in sorted(said))
            calls = [answer.call.told() for answer in group]
            found.append(Violation("a stream's text is the answer's", detail, calls))
    return found


def of_log(text: str) -> list[Violation]:
    """Memory checks that spoke, a scheduler that died, and tracebacks through this package."""
    found = []
    for cry in CRIES:
        at = text.find(cry)
        if at >= 0:
            found.append(
                Violation("the log is silent", f"{cry!r}: {text[max(0, at - 300) : at + 700]}")
            )
    for match in _TRACE.finditer(text):
        if _OURS.search(match[0]):
            last = text[match.end() : match.end() + 300].partition("\n")[0]
            tail = "\n".join(match[0].splitlines()[-6:])
            found.append(Violation("no traceback of ours", f"{last}\n{tail}"))
    return found


def used_tokens(wire: Wire, *, within: float = REST) -> int | None:
    """KV tokens in use once nothing runs any more; None if it does not come to rest."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        answer = wire.ask("/v1/loads?include=core")
        if answer.status == 200:
            loads = answer.json()["loads"]
            if all(one["num_running_reqs"] == one["num_waiting_reqs"] == 0 for one in loads):
                return sum(int(one["num_used_tokens"]) for one in loads)
        time.sleep(0.2)
    return None


def flush(wire: Wire, *, within: float = 20.0) -> str | None:
    """Empty the prefix cache; why it was not, or None. The last answer comes a step before the
    scheduler is idle, so a refusal is asked again."""
    until = time.monotonic() + within
    while True:
        answer = wire.ask("/flush_cache", {})
        if answer.status == 200:
            return None
        if time.monotonic() > until:
            return answer.fault or _short(answer)
        time.sleep(0.5)


class Probe:
    """A request that must be answered as it was at the start, down to its logprobs.

    Args:
        body: of ``/generate``, greedy and with ``return_logprob``.
    """

    #: Logprobs of one computation repeated alone, from an empty prefix cache.
    TOLERANCE = 1e-5

    def __init__(self, wire: Wire, body: dict[str, Any]):
        self.wire = wire
        self.body = body
        self.first = self._ask()

    def _ask(self) -> tuple[list[int], list[float]]:
        refused = flush(self.wire)
        if refused is not None:
            raise RuntimeError(f"the prefix cache of an idle server cannot be flushed: {refused}")
        answer = self.wire.ask("/generate", self.body)
        if answer.status != 200:
            raise RuntimeError(f"the probe was not answered: {answer.fault or _short(answer)}")
        meta = answer.json()["meta_info"]
        entries = meta["output_token_logprobs"]
        return [entry[1] for entry in entries], [entry[0] for entry in entries]

    def check(self) -> list[Violation]:
        """Ask again and compare."""
        told = [Call("probe", "/generate", self.body).told()]
        try:
            ids, logprobs = self._ask()
        except RuntimeError as error:
            return [Violation("the probe is answered", str(error), told)]
        if ids != self.first[0]:
            return [Violation("the probe's text stays", f"{ids}, first {self.first[0]}", told)]
        worst = max((abs(a - b) for a, b in zip(logprobs, self.first[1], strict=True)), default=0.0)
        if worst > self.TOLERANCE:
            return [Violation("the probe's logprobs stay", f"off by {worst:.2e}", told)]
        return []


def at_rest(wire: Wire, probe: Probe) -> list[Violation]:
    """What must hold of a server whose every request has been answered."""
    used = used_tokens(wire)
    if used is None:
        return [Violation("the server comes to rest", f"requests still run after {REST:.0f} s")]
    found = []
    if used:
        found.append(Violation("nothing holds KV at rest", f"{used} tokens in use"))
    for path in ("/health", "/health_generate"):
        answer = wire.ask(path)
        if answer.status != 200:
            found.append(
                Violation("the server is healthy", f"{path}: {answer.fault or _short(answer)}")
            )
    return found + probe.check()


def openai_reason(answer: Answer) -> str | None:
    """Finish reason of the first choice of an OpenAI answer."""
    try:
        told = answer.events if answer.call.stream else [answer.json()]
    except ValueError:
        return None
    reasons = [c.get("finish_reason") for one in told for c in one.get("choices") or ()]
    return next((str(reason) for reason in reasons if reason), None)
