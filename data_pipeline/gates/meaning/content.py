"""The content gate: the flattened text says what the source says, everywhere.

An overall edit distance lets the last fifth of a solution vanish unseen; windows see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from rapidfuzz.distance import Levenshtein

from ...finding import Finding
from ..options import GateOptions
from ..text.located import Located
from .normal import Span, normal

_TAGS = ("<Think>", "</Think>")


def check_content(located: Located, source: str, options: GateOptions) -> list[Finding]:
    """Edit distance of the text, flattened, to ``source``: overall and per window.

    A source that goes past ``</Think>`` is compared with the whole text, one that does not with
    the thought alone.
    """
    kept = kept_spans(located, source)
    old, new = normal(source, _without_tags(source)), normal(located.text, kept)
    longest = max(len(old.text), len(new.text))
    if not longest:
        return []
    operations = Levenshtein.editops(old.text, new.text)
    overall = len(operations) / longest
    findings = []
    if overall > options.max_distance:
        findings.append(
            Finding(
                "content-distance",
                f"without its blocks the text is {overall:.2f} from the source, at most "
                f"{options.max_distance:.2f}; keep what the source says in its words",
                gate="content",
            )
        )
    deleted, replaced, inserted = [], [], []
    for op in operations:
        {"delete": deleted, "replace": replaced, "insert": inserted}[op.tag].append(op)
    bound = options.max_window_distance
    lost = [op.src_pos for op in deleted]
    altered = [op.src_pos for op in replaced]
    for start, end in _dense(lost + altered, len(old.text), options.window, bound):
        gone = sum(start <= at < end for at in lost)
        changed = sum(start <= at < end for at in altered)
        span = old.span(start, end)
        if gone >= changed:
            findings.append(_lost(source, span))
        else:
            findings.append(_changed(source, span))
    for start, end in _dense(
        [op.dest_pos for op in inserted], len(new.text), options.window, bound
    ):
        findings.append(_added(located.text, new.span(start, end)))
    return findings


def kept_spans(located: Located, source: str) -> list[Span]:
    """What of the text is to be compared with ``source``."""
    whole = located.thought is None or "</Think>" in source
    spans = [] if located.thought is None else located.kept(located.thought)
    return spans + (located.kept(located.answer) if whole else [])


def _without_tags(source: str) -> list[Span]:
    spans, at = [], 0
    edges = sorted(
        (source.find(tag), source.find(tag) + len(tag)) for tag in _TAGS if tag in source
    )
    for start, end in edges:
        spans.append((at, start))
        at = end
    return [*spans, (at, len(source))]


def _dense(positions: list[int], length: int, window: int, bound: float) -> list[Span]:
    """Stretches of ``[0, length)`` made of windows of which more than ``bound`` is in
    ``positions``, cut back to the first and last of these. Linear in ``length``."""
    if not positions or not length:
        return []
    window = min(window, length)
    marks = bytearray(length)
    for at in positions:
        marks[min(at, length - 1)] = 1
    sums = [0, *accumulate(marks)]
    starts = sorted({*range(0, length - window + 1, max(window // 4, 1)), length - window})
    spans: list[Span] = []
    for start in starts:
        if sums[start + window] - sums[start] <= bound * window:
            continue
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], start + window)
        else:
            spans.append((start, start + window))
    return [_trim(marks, span) for span in spans]


def _trim(marks: Sequence[int], span: Span) -> Span:
    start, end = span
    while not marks[start]:
        start += 1
    while not marks[end - 1]:
        end -= 1
    return start, end


def _quoted(text: str, span: Span) -> str:
    part = " ".join(text[slice(*span)].split())
    return repr(part if len(part) <= 100 else f"{part[:60]} … {part[-36:]}")


def _lost(source: str, span: Span) -> Finding:
    return Finding(
        "lost-content",
        f"{span[1] - span[0]} characters of the source are lost; put back {_quoted(source, span)}",
        span,
        gate="content",
        span_in="source",
    )


def _changed(source: str, span: Span) -> Finding:
    return Finding(
        "changed-content",
        f"the text is not the source's where that says {_quoted(source, span)}",
        span,
        gate="content",
        span_in="source",
    )


def _added(text: str, span: Span) -> Finding:
    return Finding(
        "added-content",
        f"the source does not say {_quoted(text, span)}; leave it out",
        span,
        gate="content",
    )
