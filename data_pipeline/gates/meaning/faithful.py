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
from fractions import Fraction

from ...finding import Finding
from .aligning import ALIKE, Group, align, all_of, likeness, short, weight_of
from .changed import SAME, SUMMED_UP, WEAK, changed
from .statements import Statement, statements


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
        *_relations(was, now, given, groups),
        *_lost(lost, now),
        *_made_up(made_up, was, given),
        *changed(was, now, groups),
    ]


def check_concluded(said: str | Sequence[str], conclusion: str, context: str = "") -> list[Finding]:
    """What ``conclusion`` says that the paths (``said``) and ``context`` do not come to.

    A number of its own is well when a calculation of its own, which is right, gives it. One that
    paths come to elsewhere than in the sentences most like it, or at their ends, is doubtful, too:
    ``misplaced-number``.
    """
    paths = [statements(said)] if isinstance(said, str) else [statements(one) for one in said]
    was = [one for path in paths for one in path]
    now, given = statements(conclusion), statements(context)
    ends = all_of([one for path in paths for one in path[-2:]], "counts")
    ends |= all_of(given, "counts")
    known = all_of(given, "counts") | all_of(was, "results") | all_of(was, "spoken")
    steps = all_of(was, "steps") | all_of(given, "steps")
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
        alike = sorted(was, key=lambda x, o=one: -len(x.words & o.words))[:3]
        near = all_of([x for x in alike if x.words & one.words], "counts")
        known |= near
        numerals = {number.lstrip("-") for number in one.numerals}
        unknown = (one.numbers | numerals) - known - results
        for number in sorted(unknown):
            findings.append(_finding("new-number", f"no path comes to {number}", one))
        for number in sorted(numerals - unknown - near - ends - results - WEAK):
            message = f"paths come to {number} where they speak of something else"
            findings.append(_finding("misplaced-number", message, one))
        for step in sorted(one.steps - steps):
            if re.fullmatch(r"[\d.]+/[\d.]+", step) and step not in results:
                findings.append(_finding("new-number", f"no path comes to {step}", one))
    groups = align(was, now)[2]
    findings += [
        finding
        for finding in _relations(was, now, given, groups)
        if finding.code == "changed-relation"
    ]
    return findings + list(changed(was, now, groups, SUMMED_UP))


def check_outlined(outline: str, path: str, siblings: Sequence[str] = ()) -> list[Finding]:
    """Whether ``outline`` says what ``path`` does: it shares words, numbers or names with it, and
    no fewer than with a sibling."""
    tokens = all_of(statements(outline), "tokens")
    if not tokens:
        return []

    def shared(text: str) -> int:
        return len(tokens & all_of(statements(text), "tokens"))

    own = shared(path)
    if own and own >= max(map(shared, siblings), default=0) / 2:
        return []
    message = f"the outline {short(outline)} names nothing that its path speaks of"
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
        inner = _evaluate(node.operand)
        return inner if isinstance(node.op, ast.UAdd) else -inner
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
            case ast.Pow() if b.denominator == 1 and abs(b) * _bits(a) < 4096:
                return Fraction(a ** int(b))
    raise ValueError("no calculation of numbers")


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _numbers(was: Group, now: Group, given: Group) -> Iterator[Finding]:
    known = all_of(was, "counts") | all_of(given, "counts")
    for one in now:
        for number in sorted(one.numbers - known - WEAK):
            yield _finding("new-number", f"{number} stands nowhere in the source", one)
    kept = all_of(now, "counts") | WEAK
    for one in was:
        for number in sorted(one.numbers - kept):
            yield _finding("lost-number", f"{number} of the source is gone", one, source=True)


_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "≠": "≠", "~": "~"}


def _relations(
    was: Group, now: Group, given: Group, groups: Sequence[tuple[Group, Group]]
) -> Iterator[Finding]:
    numbers = all_of(was, "numbers")
    relations = set(all_of(was, "relations") | all_of(given, "relations"))
    relations |= {(b, _TURNED[sign], a) for a, sign, b in relations if sign in _TURNED}
    known, kept = (
        all_of(was, "steps"),
        all_of(now, "steps") - (all_of(given, "steps") - all_of(was, "steps")),
    )
    replaced = _replaced(groups, known, kept)
    still = all_of(now, "relations")
    between = {_ends(step) for step in known}
    tokens, held = _tokens(was) | _tokens(given), _tokens(now)
    modular = any(re.search(r"≡|\\equiv|\bmod", one.text) for one in (*was, *now))
    for one in now:
        for step in sorted(one.steps - known):
            ends = _ends(step)
            worded = _operands(step) - {"1"} <= tokens and ends not in between and ends[0] != ""
            if step in replaced or not worded:
                yield _finding("new-formula", f"{step} stands nowhere in the source", one)
        for left, sign, right in sorted(one.relations):
            if (left, sign, right) in relations:
                continue
            if _wrong(left, sign, right) and not modular:
                yield _finding("false-sum", f"{left} {sign} {right} does not hold", one)
                continue
            other = {
                s for a, s, b in relations if (a, b) == (left, right) and (a, s, b) not in still
            }
            bound = {b for a, s, b in relations if a == left and s == sign}
            simple = re.fullmatch(r"\w+'*(?:\([\w,]+\))?", left)
            said = any(_speaks(x, left, right) for x in was)
            if (
                said
                or not simple
                or (len(bound) > 1 and right.lstrip("-") in numbers and _minus(right) not in bound)
            ):
                bound = set()  # "x = 0 or 6" says x = 6
            if (
                (left, sign, _minus(right)) in relations
                or other
                or (bound and _plain(right) and not _plain(left) and right not in bound)
            ):
                yield _finding(
                    "changed-relation", f"the source does not say {left} {sign} {right}", one
                )
    for one in was:
        for step in sorted(one.steps - kept):
            if step in replaced or not _operands(step) <= held:
                yield _finding("lost-formula", f"{step} of the source is gone", one, source=True)


def _replaced(
    groups: Sequence[tuple[Group, Group]], known: frozenset[str], kept: frozenset[str]
) -> set[str]:
    """Steps of one text of which the other has another with one of the same things, where
    sentences match."""
    found: set[str] = set()
    for old, new in groups:
        gone, added = all_of(old, "steps") - kept, all_of(new, "steps") - known
        for a in gone:
            for b in added:
                if _operands(a) & _operands(b):
                    found |= {a, b}
    return found


def _speaks(one: Statement, left: str, right: str) -> bool:
    """Whether a sentence names both sides of a relation, the number with its sign."""
    named = left in one.sides or re.search(rf"(?<!\w){re.escape(left)}(?!\w)", one.plain)
    if not named or right.lstrip("-") not in one.numbers:
        return False
    signs = re.findall(
        rf"((?:^|[=<>~(,] ?)-)?(?<![\w.]){re.escape(right.lstrip('-'))}(?![\w.])", one.plain
    )
    return not signs or any(bool(sign) == (right[0] == "-") for sign in signs)


def _minus(side: str) -> str:
    return side[1:] if side[0] == "-" else f"-{side}"


def _wrong(left: str, sign: str, right: str) -> bool:
    """Whether two sides of numbers alone do not stand as ``sign`` says, roundings aside."""
    a, b = value(left), value(right)
    if a is None or b is None or _plain(left):  # a plain one may be the end of a longer side
        return False
    if sign == "=" and "." in left + right:
        return abs(a - b) > abs(b) / 50
    held = {"=": a == b, "<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b, "≠": a != b}
    return not held.get(sign, True)


def _tokens(some: Group) -> frozenset[str]:
    return all_of(some, "tokens") | all_of(some, "spoken")


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
        small = weight_of(one) < 4 and one.tokens | one.spoken <= held
        if not (one.asks or one.assents or small or _again(one, now)):
            yield _finding("lost-statement", "the source's sentence is gone", one, source=True)


def _again(one: Statement, some: Group) -> bool:
    """Whether one of ``some`` says the same as ``one``, of the same things."""
    return any(
        likeness([one], [other]) >= SAME
        and (one.counts, one.names, one.nots) == (other.counts, other.names, other.nots)
        for other in some
    )


def _made_up(made_up: Group, was: Group, given: Group) -> Iterator[Finding]:
    numbers = all_of(was, "counts") - WEAK
    for one in made_up:
        known = any(likeness([one], [other]) >= ALIKE for other in given) or _again(one, was)
        # "This amounts to 135": names what the sentence before comes to
        small = len(one.words) < 2 and not one.steps and one.counts and one.counts <= numbers
        if not (one.heading or one.asks or one.assents or known or small):
            yield _finding("new-statement", "the source does not say this", one)


def _finding(code: str, message: str, one: Statement, *, source: bool = False) -> Finding:
    return Finding(
        code,
        f"{message}: {short(one.text)}",
        one.span,
        gate="faithful",
        span_in="source" if source else "text",
    )
