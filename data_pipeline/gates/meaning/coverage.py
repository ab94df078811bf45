"""The coverage gate: every sentence of the source once, in order, as it stands there."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import LCSseq
from rapidfuzz.fuzz import partial_ratio_alignment

from ...finding import Finding
from ...source.sentences import split_sentences, trimmed
from .normal import Normal, Span, normal

#: Similarity, of 100, from which a sentence counts as changed rather than as missing.
_ALIKE = 80


def compare_sentences(source: str, text: str, spans: Sequence[Span]) -> list[Finding]:
    """Sentences of ``source`` that the ``spans`` of ``text`` lack or hold changed or twice.

    White space, XML escapes and typographic quotes do not count.
    """
    return _Comparison(source, text, spans).run()


def _finding(code: str, message: str, span: Span, *, in_source: bool = False) -> Finding:
    return Finding(code, message, span, gate="coverage", span_in="source" if in_source else "text")


@dataclass
class _Sentence:
    span: Span
    key: str
    start: int = 0  # in the normalised text, target sentences only


class _Comparison:
    def __init__(self, source: str, text: str, spans: Sequence[Span]):
        self.source = source
        self.text = text
        self.target: Normal = normal(text, spans, space="")
        self.sentences = [
            _Sentence(span, key)
            for span in (trimmed(source, s) for s in split_sentences(source))
            if _says(key := normal(source, [span], space="").text)
        ]
        self.taken: list[Span] = []  # of the normalised target
        self.findings: list[Finding] = []
        self.spans = spans

    def run(self) -> list[Finding]:
        anchors = self.anchor()
        left: list[_Sentence] = []
        edge = index = 0
        for source_index, start, end in [*anchors, (len(self.sentences), *2 * [self.end])]:
            left += self.in_gap(self.sentences[index:source_index], edge, start)
            edge, index = end, source_index + 1
        self.changed_moved_or_missing(left)
        self.doubled()
        return sorted(self.findings, key=lambda f: (f.span_in, f.span))

    @property
    def end(self) -> int:
        return len(self.target.text)

    def anchor(self) -> list[tuple[int, int, int]]:
        """Longest common subsequence of whole sentences: (source index, start, end)."""
        own = self.own_sentences()
        anchors = []
        matched = LCSseq.opcodes(
            [sentence.key for sentence in self.sentences], [sentence.key for sentence in own]
        )
        for op in matched:
            if op.tag == "equal":
                for offset in range(op.src_end - op.src_start):
                    found = own[op.dest_start + offset]
                    end = found.start + len(found.key)
                    anchors.append((op.src_start + offset, found.start, end))
                    self.taken.append((found.start, end))
        return anchors

    def own_sentences(self) -> list[_Sentence]:
        found = []
        offsets = self.target.offsets
        for outer in self.spans:
            part = self.text[slice(*outer)]
            for start, end in split_sentences(part):
                span = trimmed(self.text, (outer[0] + start, outer[0] + end))
                first, last = bisect_left(offsets, span[0]), bisect_left(offsets, span[1])
                found.append(_Sentence(span, self.target.text[first:last], first))
        return [sentence for sentence in found if _says(sentence.key)]

    def in_gap(self, sentences: list[_Sentence], start: int, end: int) -> list[_Sentence]:
        """Take those of ``sentences`` that stand in target ``[start, end)`` though it is cut into
        other sentences; give back the rest."""
        left = []
        for sentence in sentences:
            at = self.find(sentence.key, start, end)
            if at is None:
                left.append(sentence)
            else:
                start = at + len(sentence.key)
                self.taken.append((at, start))
        return left

    def find(self, key: str, start: int, end: int) -> int | None:
        at = self.target.text.find(key, start, end)
        while at >= 0:
            if self.edge(at) and self.edge(at + len(key)) and not self.is_taken(at, at + len(key)):
                return at
            at = self.target.text.find(key, at + 1, end)
        return None

    def is_taken(self, start: int, end: int) -> bool:
        return any(start < other_end and other < end for other, other_end in self.taken)

    def edge(self, at: int) -> bool:
        """Whether no word goes on across normalised position ``at``."""
        text, offsets = self.target.text, self.target.offsets
        if at in (0, len(text)) or offsets[at] - offsets[at - 1] > 1:
            return True
        return not (text[at - 1].isalnum() and text[at].isalnum())

    def changed_moved_or_missing(self, sentences: list[_Sentence]) -> None:
        rest = []
        for sentence in sentences:
            at = self.find(sentence.key, 0, self.end)
            if at is None:
                rest.append(sentence)
                continue
            self.taken.append((at, at + len(sentence.key)))
            self.note(
                "moved-sentence",
                f"keep the order of the source: {_quote(self, sentence)}",
                sentence,
            )
        for sentence in rest:
            free = self.free()
            best = max(
                (
                    (found.score, start + found.dest_start, start + found.dest_end)
                    for start, end in free
                    if (
                        found := partial_ratio_alignment(
                            sentence.key, self.target.text[start:end], score_cutoff=_ALIKE
                        )
                    )
                    and end - start >= len(sentence.key) * _ALIKE // 100
                ),
                default=None,
            )
            if best is None:
                self.note(
                    "missing-sentence",
                    f"put back from the source: {_quote(self, sentence)}",
                    sentence,
                )
            else:
                self.taken.append(best[1:])
                self.note(
                    "changed-sentence", f"copy as it stands: {_quote(self, sentence)}", sentence
                )

    def note(self, code: str, message: str, sentence: _Sentence) -> None:
        self.findings.append(_finding(code, message, sentence.span, in_source=True))

    def free(self) -> list[Span]:
        """What of the normalised target no sentence of the source has taken."""
        spans, at = [], 0
        for start, end in sorted(self.taken):
            if start > at:
                spans.append((at, start))
            at = max(at, end)
        if at < self.end:
            spans.append((at, self.end))
        return spans

    def doubled(self) -> None:
        known = {sentence.key for sentence in self.sentences}
        for start, end in self.free():
            span = self.target.span(start, end)
            for s, e in split_sentences(self.text[slice(*span)]):
                inner = trimmed(self.text, (span[0] + s, span[0] + e))
                key = normal(self.text, [inner], space="").text
                if key in known:
                    quoted = " ".join(self.text[slice(*inner)].split())[:80]
                    self.findings.append(
                        _finding("duplicated-sentence", f"stands twice: {quoted!r}", inner)
                    )


def _says(key: str) -> bool:
    """Whether a normalised sentence says anything: rulers and bullets do not."""
    return any(char.isalnum() for char in key)


def _quote(comparison: _Comparison, sentence: _Sentence) -> str:
    text = " ".join(comparison.source[slice(*sentence.span)].split())
    return repr(text if len(text) <= 160 else f"{text[:157]}…")
