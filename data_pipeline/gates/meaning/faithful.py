"""The gate of a rewriting: what a passage states, its rewriting states, and nothing else.

Three comparisons, of which each sees what the others cannot: numbers and formulas as sets (a wrong
number, a flipped sign), every statement against those of the other text (a sentence that is lost or
made up), and negations between statements that match. A rewriting may say a thing twice or once,
join and split sentences, and name what a pronoun stood for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ...finding import Finding
from ...source.sentences import Span
from .statements import Statement, statements
from .words import OPPOSITES

Group = Sequence[Statement]
#: Share of what two statements say, together, from which they count as the same.
ALIKE = 0.3
#: That from which it is told which of two sentences denies what the other says.
SURE = 0.5
#: Numbers that come and go with the wording ("positive", "1 way").
_WEAK = frozenset("01")
#: Words that a number or a step of a formula is worth.
_HEAVY = 2.0


def check_faithful(old: str, new: str, context: str = "") -> list[Finding]:
    """What ``new`` states otherwise than ``old``, which it is a rewriting of.

    Args:
        context: what both may take for granted (the question, the text before): numbers and
            formulas from here are no inventions.

    Returns:
        Findings with spans in ``new``, or in ``old`` (``span_in="source"``) where something is
        lost.
    """
    was, now, given = statements(old), statements(new), statements(context)
    lost, made_up, groups = align(was, now)
    return [
        *_numbers(was, now, given),
        *_relations(was, now, given),
        *_lost(lost, now),
        *_made_up(made_up, given),
        *_replaced(was, now, groups),
        *_negated(groups),
    ]


def check_concluded(said: str, conclusion: str, context: str = "") -> list[Finding]:
    """What ``conclusion`` says that the paths (``said``) and ``context`` do not come to.

    A number of its own is well when a calculation of its own, which is right, gives it.
    """
    was, now, given = statements(said), statements(conclusion), statements(context)
    known = _all(given, "counts") | _all(was, "results") | _all(was, "spoken")
    steps = _all(was, "steps") | _all(given, "steps")
    findings: list[Finding] = []
    for one in now:
        results = set()
        for left, sign, right in one.relations:
            a, b = value(left), value(right)
            if sign == "=" and a is not None and b is not None and not _plain(left):
                if a == b:
                    results |= {left, right}
                else:
                    findings.append(_finding("false-sum", f"{left} is not {right}", one))
        about = sorted(was, key=lambda x, o=one: -len(x.words & o.words))[:3]
        for x in about:
            if x.words & one.words:
                known |= x.counts
        for number in sorted(one.numbers - known - results):
            findings.append(_finding("new-number", f"no path comes to {number}", one))
        for step in sorted(one.steps - steps):
            if re.fullmatch(r"[\d.]+/[\d.]+", step) and step not in results:
                findings.append(_finding("new-number", f"no path comes to {step}", one))
    findings += [
        finding for finding in _relations(was, now, given) if finding.code == "changed-relation"
    ]
    return findings + list(_negated(align(was, now)[2]))


def check_outlined(outline: str, path: str, siblings: Sequence[str] = ()) -> list[Finding]:
    """Whether ``outline`` says what ``path`` does: it shares words, numbers or names with it, and
    no fewer than with a sibling."""
    tokens = _all(statements(outline), "tokens")
    if not tokens:
        return []

    def shared(text: str) -> int:
        return len(tokens & _all(statements(text), "tokens"))

    own = shared(path)
    if own and own >= max(map(shared, siblings), default=0) / 2:
        return []
    message = f"the outline {_short(outline)} names nothing that its path speaks of"
    return [Finding("unfitting-outline", message, (0, len(outline)), gate="faithful")]


_SUM = re.compile(r"[\d.+*/()^-]+")


def value(side: str) -> Fraction | None:
    """What a side of numbers alone comes to; None where it is more than a small calculation."""
    if not _SUM.fullmatch(side) or len(side) > 60 or re.search(r"\^\(?\d{3}|\d{16}", side):
        return None
    try:
        return _evaluate(ast.parse(side.replace("^", "**"), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError):
        return None


def _evaluate(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp):
        a, b = _evaluate(node.left), _evaluate(node.right)
        match node.op:
            case ast.Add():
                return a + b
            case ast.Sub():
                return a - b
            case ast.Mult():
                return a * b
            case ast.Div():
                return a / b
            case ast.Pow() if b.denominator == 1 and abs(b) < 64:
                return Fraction(a ** int(b))
    raise ValueError("no calculation of numbers")


def _numbers(was: Group, now: Group, given: Group) -> Iterator[Finding]:
    known = _all(was, "counts") | _all(given, "counts")
    for one in now:
        for number in sorted(one.numbers - known - _WEAK):
            yield _finding("new-number", f"{number} stands nowhere in the source", one)
    kept = _all(now, "counts") | _WEAK
    for one in was:
        for number in sorted(one.numbers - kept):
            yield _finding("lost-number", f"{number} of the source is gone", one, source=True)


_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "~": "~"}


def _relations(was: Group, now: Group, given: Group) -> Iterator[Finding]:
    numbers = _all(was, "numbers")
    relations = set(_all(was, "relations") | _all(given, "relations"))
    relations |= {(b, _TURNED[sign], a) for a, sign, b in relations if sign in _TURNED}
    known, kept = (
        _all(was, "steps"),
        _all(now, "steps") - (_all(given, "steps") - _all(was, "steps")),
    )
    replaced = bool(known - kept) and bool(kept - known)
    between = {_ends(step) for step in known}
    tokens, held = _tokens(was) | _tokens(given), _tokens(now)
    for one in now:
        for step in sorted(one.steps - known):
            worded = _operands(step) <= tokens and _ends(step) not in between
            if replaced or not worded:
                yield _finding("new-formula", f"{step} stands nowhere in the source", one)
        for left, sign, right in sorted(one.relations):
            if (left, sign, right) in relations:
                continue
            other = {s for a, s, b in relations if (a, b) == (left, right)}
            bound = {b for a, s, b in relations if a == left and s == sign}
            simple = re.fullmatch(r"\w+'*(?:\([\w,]+\))?", left)
            said = any(left in x.sides and right.lstrip("-") in x.numbers for x in was)
            if said or not simple or (len(bound) > 1 and right.lstrip("-") in numbers):
                bound = set()  # "x = 0 or 6" says x = 6
            if other or (bound and _plain(right) and not _plain(left) and right not in bound):
                yield _finding(
                    "changed-relation", f"the source does not say {left} {sign} {right}", one
                )
    for one in was:
        for step in sorted(one.steps - kept):
            if replaced or not _operands(step) <= held:
                yield _finding("lost-formula", f"{step} of the source is gone", one, source=True)


def _tokens(some: Group) -> frozenset[str]:
    return _all(some, "tokens") | _all(some, "spoken")


def _operands(step: str) -> set[str]:
    """Numbers and names of one letter on both sides of a step."""
    return set(re.findall(r"\d+(?:\.\d+)?|(?<![^\W_])[^\W\d_](?![^\W_])", step))


def _ends(step: str) -> tuple[str, ...]:
    """What a step stands between, whatever it does with it."""
    return tuple(re.split(r"[-+*/^]+", step, maxsplit=1))


def _plain(term: str) -> bool:
    """Whether a term is a number alone, which is compared as such."""
    return term.lstrip("-").replace(".", "", 1).isdigit()


def _lost(lost: Group, now: Group) -> Iterator[Finding]:
    held = _tokens(now)
    for one in lost:
        small = _weight(one) < 4 and one.tokens | one.spoken <= held
        if not one.asks and not small:
            yield _finding("lost-statement", "the source's sentence is gone", one, source=True)


def _made_up(made_up: Group, given: Group) -> Iterator[Finding]:
    for one in made_up:
        known = max((_dice([one], [x]) for x in given), default=0.0) >= ALIKE
        if not (one.heading or one.asks or known):
            yield _finding("new-statement", "the source does not say this", one)


#: How many sentences of each text may say the same together, or nothing.
_WIDTHS = ((1, 0), (0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1))
#: How far a sentence may stand from where it would be if both texts went on evenly.
_BAND = 20


def align(
    old: Group, new: Group
) -> tuple[list[Statement], list[Statement], list[tuple[Group, Group]]]:
    """Match two lists in order, so that as much as can be is said by both.

    Returns:
        What of ``old`` and what of ``new`` nothing matches, and the groups that match.
    """
    old, new = ([one for one in some if _says(one)] for some in (old, new))
    slope = len(new) / max(len(old), 1)
    band = max(_BAND, 2 * slope)
    ours, theirs = _windows(old), _windows(new)
    best: dict[Span, float] = {(0, 0): 0.0}
    moves: dict[Span, Span] = {}
    for i in range(len(old) + 1):
        for j in range(len(new) + 1):
            if abs(j - i * slope) > band:
                continue
            options = [
                (best[i - a, j - b] + (_gain(ours[i, a], theirs[j, b]) if a and b else 0), (a, b))
                for a, b in _WIDTHS
                if (i - a, j - b) in best
            ]
            if options:
                best[i, j], moves[i, j] = max(options)
    lost, made_up, groups = [], [], []
    i, j = len(old), len(new)
    while i or j:
        a, b = moves[i, j]
        if not b:
            lost.append(old[i - 1])
        if not a:
            made_up.append(new[j - 1])
        if a and b:
            groups.append((old[i - a : i], new[j - b : j]))
        i, j = i - a, j - b
    return lost[::-1], made_up[::-1], groups[::-1]


def _says(one: Statement) -> bool:
    """Whether a sentence states enough to be matched: more than a number alone."""
    return _weight(one) >= 2 and len(one.tokens) > 1


@dataclass(frozen=True)
class _Said:
    """What some sentences say together: numbers and steps, words, and their weight."""

    heavy: frozenset[str]
    words: frozenset[str]
    weight: float

    @classmethod
    def by(cls, some: Group) -> _Said:
        heavy = _all(some, "counts") | _all(some, "steps")
        words = _all(some, "words")
        return cls(heavy, words, _HEAVY * len(heavy) + len(words))

    def with_(self, other: _Said) -> float:
        """The weight of what both say."""
        return _HEAVY * len(self.heavy & other.heavy) + len(self.words & other.words)


def _windows(some: Group) -> dict[Span, _Said]:
    """What up to three sentences say together, by where they end and how many they are."""
    return {
        (end, width): _Said.by(some[end - width : end])
        for end in range(len(some) + 1)
        for width in (1, 2, 3)
        if width <= end
    }


def _gain(ours: _Said, theirs: _Said) -> float:
    """Over 0 where both share more than :data:`ALIKE` of what they say."""
    return 2 * ours.with_(theirs) - ALIKE * (ours.weight + theirs.weight)


def _dice(some: Group, others: Group) -> float:
    ours, theirs = _Said.by(some), _Said.by(others)
    return 2 * ours.with_(theirs) / max(ours.weight + theirs.weight, 1.0)


def _weight(one: Statement) -> float:
    return _Said.by([one]).weight


def _all(some: Group, name: str) -> frozenset[Any]:
    """What the property ``name`` of all of them comes to together."""
    return frozenset().union(*(getattr(one, name) for one in some))


def _negated(groups: Sequence[tuple[Group, Group]]) -> Iterator[Finding]:
    """Sentences that match, of which one denies what the other says, without any other negation."""
    for old, new in groups:
        if _dice(old, new) < SURE:
            continue
        for some, others in ((new, old), (old, new)):
            denied = _all(some, "denied") & _all(others, "tokens")
            if denied and not any(one.negative for one in others):
                said = f"the source says {_short(old[0].text)}, here"
                yield _finding("changed-negation", said, new[0])
        ours, theirs = _all(new, "words"), _all(old, "words")
        denies = any(one.negative for one in (*old, *new))
        for a, b in () if denies else OPPOSITES:
            if a in ours - theirs and b in theirs - ours:
                yield _finding("contrary", f"the source says {_short(old[0].text)}, here", new[0])


def _replaced(
    was: Sequence[Statement], now: Sequence[Statement], groups: Sequence[tuple[Group, Group]]
) -> Iterator[Finding]:
    """Sentences that match, in one of which a number or a name stands for another of the source."""
    for old, new in groups:
        if _dice(old, new) < SURE:
            continue
        added, gone = (
            _all(new, "names") - _all(old, "names"),
            _all(old, "names") - _all(new, "names"),
        )
        if added and gone:
            message = f"{', '.join(sorted(added))} for {', '.join(sorted(gone))}"
            yield _finding("changed-name", message, new[0])
        theirs, ours = _all(_beside(was, old), "counts"), _all(_beside(now, new), "counts")
        added = _all(new, "counts") - theirs - _WEAK
        gone = _all(old, "counts") - ours - _WEAK
        if added and gone:
            message = f"{', '.join(sorted(added))} for {', '.join(sorted(gone))}"
            yield _finding("changed-number", message, new[0])


def _beside(whole: Sequence[Statement], some: Group) -> Group:
    """``some`` of ``whole`` with the statement before and the one after."""
    first, last = (
        next(i for i, one in enumerate(whole) if one is at) for at in (some[0], some[-1])
    )
    return whole[max(first - 1, 0) : last + 2]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 100 else f"{text[:97]}…")


def _finding(code: str, message: str, one: Statement, *, source: bool = False) -> Finding:
    return Finding(
        code,
        f"{message}: {_short(one.text)}",
        one.span,
        gate="faithful",
        span_in="source" if source else "text",
    )
