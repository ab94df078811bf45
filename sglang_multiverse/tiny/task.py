"""The tiny model's world: small systems of sums, differences and products, and one question.

A problem defines named numbers, ``A = 482+395, B = 913-278, C = 267*4``, and asks for one
of them, for a sum, or for the largest or smallest. Definitions that do not need one another are
independent parts; a definition may use earlier ones (``D = A + B``) or hold two independent parts
of its own (``A = (123+456) - (789-321)``). :mod:`.solution` writes the worked answers.

Standard library only: a demo can read a user's question and know the right answer with this file.
"""

from __future__ import annotations

import hashlib
import operator
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..dialect import MULTIVERSE

Mode = Literal["parallel", "sequential"]
Split = Literal["train", "test"]

#: Names a question may define, in this order.
NAMES = "ABCDEF"
#: The two parts of a definition with parentheses, by the name it defines.
PART_NAMES = {"A": "PQ", "B": "RS", "C": "TU", "D": "VW"}
#: The name the worked answer gives to a sum that is asked for.
TOTAL = "Z"
#: Every result fits four places.
MAX_VALUE = 9999
MAX_PARTS = 4

DESCRIPTION = """\
The tiny model works on two to four named results of three-digit numbers and one question on them:
  A = 482+395, B = 913-278, C = 267*4. Which is largest, A, B or C?
  A = 482+395, B = 913-278. What is A + B?
  A = 482+395. What is A?
Operands have three digits, a factor one (2 to 9); no result is negative or over 9999. It reads
parentheses and names defined by other names too, and mostly gets them wrong."""

_OPS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


class NotUnderstood(ValueError):
    """A question the tiny model was not made for; the message says why."""


@dataclass(frozen=True)
class Part:
    """One operation on two numbers of the question; ``right`` has one digit where ``op`` is *."""

    left: int
    op: str
    right: int

    def __str__(self) -> str:
        return f"{self.left}{self.op}{self.right}"

    @property
    def value(self) -> int:
        return int(_OPS[self.op](self.left, self.right))


@dataclass(frozen=True)
class Definition:
    """``name = left op right`` over numbers, over two earlier names, or over two parts."""

    name: str
    left: int | str | Part
    op: str
    right: int | str | Part

    def __str__(self) -> str:
        if isinstance(self.left, int) and isinstance(self.right, int):
            return f"{self.name} = {Part(self.left, self.op, self.right)}"
        return f"{self.name} = {_operand(self.left)} {self.op} {_operand(self.right)}"

    @property
    def derived(self) -> bool:
        """Needs results of earlier definitions."""
        return isinstance(self.left, str)

    @property
    def nested(self) -> bool:
        return isinstance(self.left, Part)


def _operand(operand: int | str | Part) -> str:
    return f"({operand})" if isinstance(operand, Part) else str(operand)


@dataclass(frozen=True)
class Problem:
    """Definitions and a question on them.

    Attributes:
        ask: ``value`` of one name, ``sum`` of two, or ``largest`` or ``smallest`` of several.
        asked: the names the question is about.
    """

    definitions: tuple[Definition, ...]
    ask: Literal["value", "sum", "largest", "smallest"]
    asked: tuple[str, ...]

    def __str__(self) -> str:
        given = ", ".join(str(definition) for definition in self.definitions)
        if self.ask in ("value", "sum"):
            return f"Let {given}. What is {' + '.join(self.asked)}?"
        return f"Let {given}. Which is {self.ask}, {listing(self.asked, 'or')}?"

    @property
    def values(self) -> dict[str, int]:
        """The value of every name, parts and the total asked for included."""
        known: dict[str, int] = {}
        for one in self.definitions:
            left, right = one.left, one.right
            if isinstance(left, Part) and isinstance(right, Part):
                for name, part in zip(PART_NAMES[one.name], (left, right), strict=True):
                    known[name] = part.value
            known[one.name] = int(_OPS[one.op](_value(left, known), _value(right, known)))
        if self.ask == "sum":
            known[TOTAL] = sum(known[name] for name in self.asked)
        return known

    @property
    def answer(self) -> str:
        """What stands after ``Answer:``."""
        values = self.values
        if self.ask == "value":
            return str(values[self.asked[0]])
        if self.ask == "sum":
            return str(values[TOTAL])
        pick = max if self.ask == "largest" else min
        best = pick(self.asked, key=lambda name: values[name])
        return f"{best} = {values[best]}"


def _value(operand: int | str | Part, known: dict[str, int]) -> int:
    if isinstance(operand, Part):
        return operand.value
    return known[operand] if isinstance(operand, str) else operand


def listing(names: tuple[str, ...] | list[str], word: str) -> str:
    """``A``, ``A and B``, ``A, B and C``."""
    head, last = list(names[:-1]), names[-1]
    return f"{', '.join(head)} {word} {last}" if head else last


def prompt(question: Problem | str, mode: Mode) -> str:
    """The user's message: the question and the sentence that chooses the mode."""
    ending = MULTIVERSE.parallel_prompt if mode == "parallel" else MULTIVERSE.sequential_prompt
    return f"{question} {ending}"


def split_of(problem: Problem) -> Split:
    """The split a problem belongs to, by a hash of its text: a tenth is never trained on."""
    return "test" if hashlib.sha256(str(problem).encode()).digest()[0] % 10 == 0 else "train"


def grade(text: str, problem: Problem) -> bool:
    """Whether the last ``Answer:`` of ``text`` is right."""
    _, found, said = text.rpartition("Answer:")
    said = said.split("<|im_end|>")[0]
    return bool(found) and " ".join(said.split()).rstrip(".") == problem.answer


# Generation.

#: Share of each kind among the questions the shipped model is made for.
KINDS = {"single": 0.1, "compare": 0.65, "sum": 0.25}
#: The same with kinds it was shown but gets mostly wrong: a second block, a block in a path.
ALL_KINDS = {"single": 0.08, "compare": 0.48, "sum": 0.12, "staged": 0.16, "nested": 0.16}


def generate(seed: int, split: Split, kinds: dict[str, float] | None = None) -> Iterator[Problem]:
    """Endless, reproducible problems of one split; the two splits never share a problem.

    Args:
        kinds: weight of each kind, :data:`KINDS` by default.
    """
    rng = random.Random(f"{split}-{seed}")
    weights = kinds or KINDS
    while True:
        kind = rng.choices(list(weights), list(weights.values()))[0]
        problem = _MAKERS[kind](rng)
        try:
            check(problem)
        except NotUnderstood:
            continue
        if split_of(problem) == split:
            yield problem


def _number(rng: random.Random) -> int:
    return rng.randint(100, 999)


def _part(rng: random.Random, ops: str = "++--*") -> Part:
    op = rng.choice(ops)
    left, right = _number(rng), rng.randint(2, 9) if op == "*" else _number(rng)
    if op == "-" and left < right:
        left, right = right, left
    return Part(left, op, right)


def _plain(rng: random.Random, name: str) -> Definition:
    part = _part(rng)
    return Definition(name, part.left, part.op, part.right)


def _nested(rng: random.Random, name: str) -> Definition:
    left, right, op = _part(rng), _part(rng), rng.choice("+-")
    if op == "-" and left.value < right.value:
        left, right = right, left
    return Definition(name, left, op, right)


def _comparison(rng: random.Random) -> Literal["largest", "smallest"]:
    return "largest" if rng.random() < 0.6 else "smallest"


def _single(rng: random.Random) -> Problem:
    return Problem((_plain(rng, "A"),), "value", ("A",))


def _compare(rng: random.Random) -> Problem:
    names = NAMES[: rng.choice((2, 3, 3, 4))]
    return Problem(tuple(_plain(rng, name) for name in names), _comparison(rng), tuple(names))


def _sum(rng: random.Random) -> Problem:
    return Problem((_plain(rng, "A"), _plain(rng, "B")), "sum", ("A", "B"))


def _staged(rng: random.Random) -> Problem:
    first = NAMES[: rng.choice((2, 3, 3))]
    given = [_plain(rng, name) for name in first]
    values = Problem(tuple(given), "value", ("A",)).values
    second = NAMES[len(first) : len(first) + 2]
    for name in second:
        left, right = rng.sample(first, 2)
        op = rng.choice("++-")
        if op == "-" and values[left] < values[right]:
            left, right = right, left
        given.append(Definition(name, left, op, right))
    return Problem(tuple(given), _comparison(rng), tuple(second))


def _nesting(rng: random.Random) -> Problem:
    shape = rng.choice(((1, 0), (0, 1), (1, 1)))
    names = NAMES[: len(shape)]
    given = tuple(
        _nested(rng, n) if deep else _plain(rng, n) for n, deep in zip(names, shape, strict=True)
    )
    return Problem(given, _comparison(rng), tuple(names))


_MAKERS = {
    "single": _single,
    "compare": _compare,
    "sum": _sum,
    "staged": _staged,
    "nested": _nesting,
}


# Reading a question.


def check(problem: Problem) -> None:
    """Raise :class:`NotUnderstood` unless ``problem`` is of a form the model was made for."""
    known: list[str] = []
    if not problem.definitions:
        raise NotUnderstood("the question defines nothing, such as A = 482+395")
    for expected, one in zip(NAMES, problem.definitions, strict=False):
        if one.name != expected:
            raise NotUnderstood(f"names go in order A, B, C, …: expected {expected} at '{one}'")
        for operand in (one.left, one.right):
            if isinstance(operand, str) and operand not in known:
                raise NotUnderstood(f"'{one}' uses {operand} before it is defined")
            if isinstance(operand, Part):
                _check_part(operand)
        if isinstance(one.left, int) and isinstance(one.right, int):
            _check_part(Part(one.left, one.op, one.right))
        elif one.op == "*":
            raise NotUnderstood(f"'{one}': only a number is multiplied, and by one digit")
        known.append(one.name)
    first = [one for one in problem.definitions if not one.derived]
    second = [one for one in problem.definitions if one.derived]
    if len(first) > MAX_PARTS or len(second) > 2 or list(problem.definitions) != first + second:
        raise NotUnderstood(f"at most {MAX_PARTS} definitions, then at most two that use them")
    if any(one.derived for one in problem.definitions) and len(second) != 2:
        raise NotUnderstood("of definitions that use others there must be two")
    if len(first) != 2 and any(one.nested for one in first):
        raise NotUnderstood("with parentheses there must be two definitions, A and B")
    asked = tuple(one.name for one in (second or first))
    if second and any(one.nested for one in first):
        raise NotUnderstood("parentheses and definitions that use others do not go together")
    wanted = {"value": 1, "sum": 2}.get(problem.ask, max(2, len(asked)))
    if problem.asked != asked or len(asked) != wanted or (second and problem.ask == "sum"):
        raise NotUnderstood("the question must be about all the last definitions, in their order")
    values = problem.values
    for name, value in values.items():
        if not 0 <= value <= MAX_VALUE:
            raise NotUnderstood(f"{name} would be {value}, outside 0 to {MAX_VALUE}")
    if len({values[name] for name in problem.asked}) < len(problem.asked) and problem.ask != "sum":
        raise NotUnderstood("two of the results are equal")


def _check_part(part: Part) -> None:
    if not 100 <= part.left <= 999:
        raise NotUnderstood(f"'{part}': {part.left} has not three digits")
    if part.op == "*" and not 2 <= part.right <= 9:
        raise NotUnderstood(f"'{part}': the second factor must be a digit from 2 to 9")
    if part.op != "*" and not 100 <= part.right <= 999:
        raise NotUnderstood(f"'{part}': {part.right} has not three digits")


_PART = r"(\d+) ?([-+*]) ?(\d+)"
_DEFINITION = re.compile(
    rf"([A-Z]) ?= ?(?:{_PART}|([A-Z]) ?([-+]) ?([A-Z])|\( ?{_PART} ?\) ?([-+]) ?\( ?{_PART} ?\))"
)
_ASK = re.compile(
    r"(?:what is (?P<plain>[A-Z](?: ?\+ ?[A-Z])?)"
    r"|which (?:one )?is (?:the )?(?P<ask>larg|great|bigg|small|l)(?:est|er|east)"
    r"(?:,| of|:)? (?P<of>[A-Z](?:(?:,? and |,? or |, ?)[A-Z])*))\?",
    re.IGNORECASE,
)


def understand(question: str) -> Problem:
    """Read a question; ``str()`` of the result is the wording the model was trained on.

    Raises:
        NotUnderstood: it is not of a supported form; the message says why.
    """
    text = " ".join(question.translate(str.maketrans("×−·", "*-*")).split())
    for ending in (MULTIVERSE.parallel_prompt, MULTIVERSE.sequential_prompt):
        text = text.removesuffix(ending).rstrip()
    asked = _ASK.search(text)
    if asked is None or asked.end() != len(text):
        raise NotUnderstood("the question must end 'What is A?', 'What is A + B?' or 'Which is …'")
    given = re.sub(r"^let ", "", text[: asked.start()].strip(" .,;"), flags=re.IGNORECASE)
    definitions: list[Definition] = []
    for piece in re.split(r",? and |, ?|; ?", given):
        match = _DEFINITION.fullmatch(piece.strip())
        if match is None:
            raise NotUnderstood(f"'{piece.strip()}' is no definition such as A = 482+395")
        name, a, op, b, x, xop, y, p, pop, q, join, r, rop, s = match.groups()
        if a:
            definitions.append(Definition(name, int(a), op, int(b)))
        elif x:
            definitions.append(Definition(name, x, xop, y))
        else:
            left, right = Part(int(p), pop, int(q)), Part(int(r), rop, int(s))
            definitions.append(Definition(name, left, join, right))
    names = tuple(re.findall(r"\b[A-Z]\b", asked["plain"] or asked["of"]))
    if asked["plain"]:
        ask = "value" if len(names) == 1 else "sum"
    else:
        ask = "smallest" if asked["ask"].lower() in ("small", "l") else "largest"
    problem = Problem(tuple(definitions), ask, names)  # type: ignore[arg-type]
    check(problem)
    return problem


def understands(question: str) -> bool:
    """Whether the tiny model was made for ``question``."""
    try:
        understand(question)
    except NotUnderstood:
        return False
    return True
