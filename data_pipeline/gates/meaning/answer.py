"""The answer gate: the final answer survives."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sglang_multiverse.dialect import MULTIVERSE, Tag

from ...finding import Finding
from ..options import CURATION, GateOptions
from ..text.located import Located, Span
from .equivalence import EQUIVALENCE, Equivalence, Verdict

#: Codes of findings that do not reject a text.
NOTES = frozenset(("answer-unchecked",))

#: A marker counts only with something short behind it: ``Answer: To solve this …`` names none.
_SHORT = 120

_PROSE = re.compile(r"[^\W\d_]{2,}[.,;:!?]?\s+[^\W\d_]{2,}|[\u3040-\u9fff\uac00-\ud7a3]{2}")
_COMMAND = re.compile(r"\\[A-Za-z]+")

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_MARKER = re.compile(
    r"(?im)^[ \t#>*_\[\\(]*final[ \t]+answer\b[ \t]*(?:is\b)?[ \t]*[\]*_:)]*[ \t:]*"
    r"|\bthe[ \t]+(?:final[ \t]+|correct[ \t]+)?answer[ \t]+is\b[ \t]*:?[ \t]*"
    r"|^[ \t#>*_]*answer[ \t]*[*_]*:[*_]*[ \t]*"
)


@dataclass(frozen=True)
class FinalAnswer:
    """The answer a text ends with, and where it stands."""

    text: str
    span: Span


def final_answer(text: str, span: Span | None = None) -> FinalAnswer | None:
    """The last answer that ``text`` (or ``span`` of it) names: boxed, or behind ``Final Answer``,
    ``Answer:`` or "the answer is".

    Of several the last counts, since a later one supersedes; a marker with nothing behind it is
    none.
    """
    start, end = span or (0, len(text))
    found = [answer for answer in (boxed(text, start, end), _marked(text, start, end)) if answer]
    return max(found, key=lambda answer: answer.span[0]) if found else None


def boxed(text: str, start: int, end: int) -> FinalAnswer | None:
    """The last box in ``text[start:end]`` that is closed and holds something."""
    for match in reversed(list(_BOXED.finditer(text, start, end))):
        inner = match.end() + 1
        depth, at = 1, inner
        while at < end and depth:
            if text[at] == "\\":
                at += 1
            elif text[at] in "{}":
                depth += 1 if text[at] == "{" else -1
            at += 1
        if depth == 0 and text[inner : at - 1].strip():
            return FinalAnswer(text[inner : at - 1].strip(), (match.start(), at))
    return None


def _marked(text: str, start: int, end: int) -> FinalAnswer | None:
    for match in reversed(list(_MARKER.finditer(text, start, end))):
        rest = text[match.end() : end]
        body = rest.lstrip("\r\n \t*_:")
        at = match.end() + len(rest) - len(body)
        line = body.split("\n", 1)[0]
        if _BOXED.search(line):
            return boxed(text, at, at + len(line))
        line = re.split(r"(?<=[^\d\s])\.(?:\s|$)|\.\s*$", line, maxsplit=1)[0]
        value = line.strip().strip("*_").strip()
        value = re.sub(r"^(?:\\\(|\\\[|\$+)\s*(.*?)\s*(?:\\\)|\\\]|\$+)$", r"\1", value)
        if 0 < len(value) <= _SHORT and any(char.isalnum() for char in value):
            return FinalAnswer(value, (at, at + len(line)))
    return None


def check_answer(
    located: Located,
    *,
    answer: str | None,
    source: str | None,
    options: GateOptions,
    equivalence: Equivalence,
) -> list[Finding]:
    """Whether the answer is the reference's.

    Args:
        answer: the reference, bare or in a text that names it; None takes the source's. Where
            neither names one nothing is checked, but of a longer text that names none and does not
            stand in the answer ``answer-unchecked`` says so, one of :data:`NOTES`.
    """
    text = located.text
    wanted = _reference(answer, source)
    if wanted is None:
        long = (answer or "").strip()
        if not long or _stands(long, located.at(located.answer)):
            return []
        if _PROSE.search(_COMMAND.sub(" ", long)):
            said = f"the reference, {_shown(long)}, names no final answer to compare; box it there"
            return [_finding("answer-unchecked", said)]
        wanted = long
    has_answer = bool(located.at(located.answer).strip())
    found = final_answer(text, located.answer) if has_answer else None
    thought = _of_thought(located)
    if found is None:
        found = thought
    if found is None and not has_answer and source is not None and not final_answer(source):
        return []  # the source leaves its answer to what follows the thought, so may this
    if found is None:
        return [
            _finding("answer-missing", f"no final answer; end with the reference, {_shown(wanted)}")
        ]
    findings = _compare(wanted, found, options, equivalence)
    if not findings and has_answer and source is not None and thought is not None:
        thought_source = source.split(MULTIVERSE[Tag.END_THINK])[0]
        of_source = final_answer(thought_source)
        if of_source is not None:
            findings = _compare(of_source.text, thought, options, equivalence)
    return findings


def check_right(
    chain: str,
    attempt: str,
    reference: str,
    options: GateOptions = CURATION,
    equivalence: Equivalence = EQUIVALENCE,
) -> list[Finding]:
    """Whether a chain and the answer that followed it came to ``reference``: ``wrong-answer``, or
    ``answer-unchecked`` where one of them names no answer, or it was not decided in time."""
    wanted, found = _reference(reference, None), final_answer(attempt) or final_answer(chain)
    if wanted is None or found is None:
        missing = "the dataset" if wanted is None else "the chain"
        return [_finding("answer-unchecked", f"{missing} names no final answer to compare")]
    verdict = equivalence(wanted, found.text, timeout=options.answer_timeout)
    if verdict is Verdict.SAME:
        return []
    if verdict is Verdict.UNDECIDED:
        return [_finding("answer-unchecked", f"{found.text!r} or {wanted!r}: not decided in time")]
    return [_finding("wrong-answer", f"the chain comes to {found.text!r}, right is {wanted!r}")]


def _of_thought(located: Located) -> FinalAnswer | None:
    """What the thought names last outside goals and conclusions, else in one."""
    if located.thought is None:
        return None
    for span in reversed(located.kept(located.thought)):
        found = final_answer(located.text, span)
        if found is not None:
            return found
    return final_answer(located.text, located.thought)


def _reference(answer: str | None, source: str | None) -> str | None:
    if answer is not None and answer.strip():
        named = final_answer(answer)
        if named is not None:
            return named.text
        return answer.strip() if len(answer.strip()) <= _SHORT else None
    named = final_answer(source) if source is not None else None
    return named.text if named else None


def _stands(reference: str, text: str) -> bool:
    """Whether ``text`` holds ``reference`` as it is, but for white space, and no longer number or
    word."""
    wanted, said = (" ".join(one.split()) for one in (reference, text))
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w|\.\d)", said) is not None


def _shown(text: str) -> str:
    """``text`` in a message, its middle left out where it is long."""
    return repr(text) if len(text) <= 2 * _SHORT else f"{text[:_SHORT]!r}…{text[-20:]!r}"


def _compare(
    wanted: str, found: FinalAnswer, options: GateOptions, equivalence: Equivalence
) -> list[Finding]:
    verdict = equivalence(wanted, found.text, timeout=options.answer_timeout)
    if verdict is Verdict.SAME:
        return []
    if verdict is Verdict.UNDECIDED:
        return [
            _finding(
                "answer-undecided",
                f"whether {_shown(found.text)} is {_shown(wanted)} was not decided in "
                f"{options.answer_timeout:g} s; write the answer as the source does",
                found.span,
            )
        ]
    return [
        _finding(
            "answer-changed",
            f"the final answer is {_shown(found.text)}, the reference {_shown(wanted)}; keep the "
            "reference",
            found.span,
        )
    ]


def _finding(code: str, message: str, span: Span | None = None) -> Finding:
    return Finding(code, message, span, gate="answer")
