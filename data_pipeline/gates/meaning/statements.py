"""What a passage states: its sentences with their words, numbers, relations and negations."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from ...source.sentences import Span, split_sentences, trimmed
from .spelling import plain
from .words import ASSENT, JOINING, NUMBERS, SPOKEN, stem

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?|(?<=[A-Za-z^])\d+(?:\.\d+)?|(?<=\d[A-Za-z])\d+")
#: The same with the minus before it, but for those of words such as "4th".
_SIGNED = re.compile(rf"(?:(?:(?<=[ (,\[])|(?<=^))-)?(?:{_NUMBER.pattern})(?![a-z]{{2}})")
#: Words of two letters that no formula begins with.
_SHORT = "is it of to in so as at by we or an be if on no do go us up me my he".replace(" ", "|")
_ATOM = (
    r"(?:√?\((?![A-Za-z]{2,})|√?\d+(?:\.\d+)?(?:[a-zA-Z](?:_\w+)?)?\b"
    r"|√?(?:sin|cos|tan|log|ln|gcd|lcm|mod|max|min|C|P)\b"
    r"|√?[A-Za-zα-ωΑ-Ωπ](?:_\w+)?'?(?![A-Za-z])|[A-Z]{2,3}\b"
    rf"|(?!(?:{_SHORT})\b)[a-z]{{2}}(?=\s?[=<>+*/^]))"
)
_MATH = re.compile(
    rf"(?<![A-Za-z\\d.'’/*^])-?{_ATOM}"
    rf"(?:[\w.()√^*/+,%!'|∩∪-]|,\ (?=[\w-]+\))|\ (?:<=|>=|->|[=≠<>~])\ -?(?={_ATOM}))*"
)
_NAME = re.compile(r"(?<![^\W_])[^\W\d_](?:_\w+)?(?![^\W_])")
_RELATION = re.compile(r" (<=|>=|->|[=≠<>~]) ")
_WORD = re.compile(r"[A-Za-zÀ-ÿ][a-zà-ÿ']+|[A-Za-zÀ-ÿ]{2,}")
#: Every way to deny, or nearly so.
_NEGATIVE = re.compile(
    r"(?i)\b(?:not|no|never|none|nobody|nothing|neither|nor|without|cannot|instead|in place of"
    r"|rather|unless|except|outside|coprime|fails?|lacks?|miss\w*|wrong\w*|false\w*"
    r"|differ\w*|discard\w*|exclu\w+|reject\w*"
    r"|rul\w+ out|vanish\w*|mismatch\w*|avoid\w*|omit\w*"
    r"|oppos\w*|free|impossib\w+|insuff\w+|at (?:most|least)|unequal"
    r"|un(?!it|io|iq|iv|de|kn)\w+"
    r"|ir\w+|non\w*|in(?:valid|depend|equal|compat|consist)\w*|only|fewer|both|any)\b|n[’']t\b|≠|\\ne"
)
_NOT = re.compile(r"(?i)\b(?:not|no|never|none|nobody|nothing|neither|nor)\b")
#: Numbers that only count paragraphs.
_LABELS = re.compile(
    r"^\s*(?:\d{1,2}[.):]|\(?[a-z0-9]\))\s+"
    r"|(?i:\b(?:step|case|part|path|method|approach|option) \d+\b)"
)
#: Where a clause ends and another begins.
_CLAUSE = re.compile(
    r"[;—]\s+|(?:,|(?<=[^\s,]))\s+(?=(?:but|yet|while|whereas|although|though|because|since|so|hence|thus|therefore"
    r"|which|unless)\b)|,\s+(?=(?:and|or|nor|as|giving|leaving|making|for)\b)"
)
#: A clause that a sentence opens with, up to its comma.
_OPENING = re.compile(r"(?:Since|Because|As|If|When|While|Although|Though|For|With)\b[^,;(]*,\s+")
#: What denies whatever stands with it, each time it comes.
_OUTRIGHT = re.compile(
    r"(?i)\b(?:not|no|never|none|nobody|nothing|neither|nor|cannot|impossible"
    r")\b|n't\b|\bnon-?(?=[a-z])|≠"
)


#: A no that answers.
_ANSWER = re.compile(r"(?i)(?:^|[,.…?]\s)(?:so )?no[,:.]")
#: What denies nothing, or nothing of the matter.
_IDIOM = re.compile(
    r"(?i)\bno (?:problem|obstacle|accident|wonder|doubt|surprise|matter)\b"
    r"|\bnothing but\b|\bnot only\b|\(none\)"
)

#: Sides and signs of a chain of relations that are looked at from one of its sides.
_CHAIN = 40
#: Characters behind a negation in which stands what it denies.
_FAR = 200
#: None of something, as a number.
_NONE = re.compile(r"(?<![=<>] )\b(?:0|zero) [a-z]{3}")

_ASKS = re.compile(
    r"(?i)\b(?:whether|wanted|sought|to be found|our goal|the goal|the task|we(?:'re| are) after"
    r"|we (?:want|ask|seek|look for|need to find)|is (?:examined|asked)|how many)\b"
)


Value = TypeVar("Value")


@lru_cache(maxsize=1 << 13)
def _facts(text: str) -> dict[str, Any]:
    """What was found out about a sentence: the same ones come before several gates, and again with
    every block of their chain."""
    return {}


class _fact(Generic[Value]):  # noqa: N801 - a decorator
    """A property of the text of a statement, found out once for all statements of that text."""

    def __init__(self, find: Callable[[Any], Value]):
        self.find = find
        self.name = find.__name__
        self.__doc__ = find.__doc__

    def __get__(self, one: Statement, owner: type[Statement] | None = None) -> Value:
        facts = _facts(one.text)
        if self.name not in facts:
            facts[self.name] = self.find(one)
        found: Value = facts[self.name]
        one.__dict__[self.name] = found  # where the next look finds it first
        return found


@dataclass(frozen=True)
class Statement:
    """One sentence of a passage; ``span`` counts characters of the passage."""

    span: Span
    text: str

    @_fact
    def plain(self) -> str:
        return plain(self.text)

    @_fact
    def formulas(self) -> tuple[str, ...]:
        """Runs of mathematics, without spaces but around relations."""
        return tuple(
            formula
            for found in _MATH.findall(self.plain)
            if re.search(r"\w", formula := found.strip("., ")) and formula not in ("a", "A", "I")
        )

    @_fact
    def numbers(self) -> frozenset[str]:
        return frozenset(map(_canonical, _NUMBER.findall(_LABELS.sub("", self.plain))))

    @_fact
    def spoken(self) -> frozenset[str]:
        """Numbers in words: they may be said otherwise ("both", "twice")."""
        return frozenset(
            number
            for word in re.findall(r"[a-z]+", self.text.lower())
            for number in SPOKEN.get(word, ())
        )

    @_fact
    def counts(self) -> frozenset[str]:
        """Numbers, in digits or words."""
        return self.numbers | self.spoken

    @_fact
    def heavy(self) -> frozenset[str]:
        """Numbers and steps: what tells sentences apart."""
        return self.counts | self.steps

    @_fact
    def asks(self) -> bool:
        """Whether it is a question, or says what is asked."""
        return self.text.rstrip("*_ ").endswith("?") or _ASKS.search(self.text) is not None

    @_fact
    def assents(self) -> bool:
        """Whether it only says that something fits ("Both ways agree")."""
        return not (self.numbers or self.names) and self.words <= ASSENT

    @_fact
    def heading(self) -> bool:
        """Whether it is a title, or leads to what follows, rather than a sentence."""
        return bool(re.fullmatch(r"[*_]{2}.*[*_]{2}:?|#+ .*|[^.!?]{0,60}:", self.text, re.DOTALL))

    @_fact
    def sides(self) -> frozenset[str]:
        return frozenset(side for a, _, b in self.relations for side in (a, b))

    @_fact
    def relations(self) -> frozenset[tuple[str, str, str]]:
        """``(left, sign, right)`` for neighbours of a chain, and along one of equals."""
        found = set()
        for formula in self.formulas:
            sides = _RELATION.split(formula)
            for at in range(0, len(sides) - 2, 2):
                left, sign, right = sides[at : at + 3]
                found.add((_side(left), sign, _side(right)))
                last = min(len(sides) - 1, at + _CHAIN)
                for further in range(at + 3, last, 2):  # a = b = c says a = c, too
                    if sign != "=" or sides[further] != "=":
                        break
                    found.add((_side(left), "=", _side(sides[further + 1])))
        return frozenset(found)

    @_fact
    def results(self) -> frozenset[str]:
        """Numbers that something comes to: behind a relation, or a word such as "gives"."""
        after = re.findall(
            r"(?i)(?:[=<>~]|\b(?:is|are|gives?|get|leaves?|leaving|total|has|have|makes?|so|only))"
            r"\s+(?:(?:exactly|about|only|to|at|most|least|a|the)\s+)*"
            r"(-?\d[\w./^]*)(?![\w./^]| [=<>~])",
            self.plain,
        )
        return frozenset(_canonical(one) for text in after for one in _NUMBER.findall(text))

    @_fact
    def steps(self) -> frozenset[str]:
        """What is done to what: ``x+3``, ``2*x``, ``x^2``, ``√x``, brackets aside."""
        return frozenset(self.all_steps)

    @_fact
    def all_steps(self) -> tuple[str, ...]:
        """Every step where it stands, those of one kind as often as they come."""
        return tuple(
            step
            for formula in self.formulas
            for side in _RELATION.split(formula)
            for step in _steps(side)
        )

    @_fact
    def numerals(self) -> tuple[str, ...]:
        """Numbers in the order of the text, in digits or as words that only count ("three"), with
        the minus before them."""
        words = re.sub(
            rf"(?i)\b(?:{'|'.join(one for one in NUMBERS if one != 'one')})\b",
            lambda m: NUMBERS[m.group().lower()],
            _LABELS.sub("", self.plain),
        )
        words = re.sub(r"(?:(?<=[ (,\[])|(?<=^))-\((?=\d)", "(-", words)
        return tuple(map(_canonical, _SIGNED.findall(words)))

    @property
    def clauses(self) -> list[Statement]:
        """Its clauses; itself where it has but one."""
        cuts = [m.end() for m in _CLAUSE.finditer(self.text)]
        if opening := _OPENING.match(self.text):
            cuts.append(opening.end())
        found = []
        edges = [0, *sorted(set(cuts)), len(self.text)]
        for start, end in itertools.pairwise(edges):
            text = self.text[start:end]
            if any(char.isalnum() for char in text):
                found.append(Statement((self.span[0] + start, self.span[0] + end), text))
        return found

    @_fact
    def words(self) -> frozenset[str]:
        return frozenset(
            stem(word)
            for word in (found.lower() for found in _WORD.findall(self.plain))
            if word not in JOINING and word not in NUMBERS
        )

    @_fact
    def tokens(self) -> frozenset[str]:
        """Words, numbers and names."""
        names = (piece for formula in self.formulas for piece in _PIECE.findall(formula))
        return self.words | self.numbers | frozenset(names)

    @_fact
    def names(self) -> frozenset[str]:
        """Names of one letter in formulas, with their indices."""
        return frozenset(name for formula in self.formulas for name in _NAME.findall(formula))

    @_fact
    def functions(self) -> frozenset[str]:
        """Trigonometric functions and roundings that are named."""
        return frozenset(_FUNCTION.findall(self.plain))

    @_fact
    def negative(self) -> bool:
        """Whether anything in it denies, in whatever way."""
        return bool(_NEGATIVE.search(self.text) or _NONE.search(self.plain)) or "≠" in self.plain

    @_fact
    def said(self) -> tuple[str, ...]:
        """Stems of all words in order, "at most" and "at least" as one."""
        text = re.sub(r"(?i)\bat (most|least)\b|\bnon-(?=[a-z])", _joined, self.text)
        text = re.sub(r"\\[A-Za-z]+", " ", text)
        return tuple(stem(word) for word in re.findall(r"[a-z]{2,}", text.lower()))

    @_fact
    def nots(self) -> int:
        """How often it denies outright: "neither … nor" once, a "No," that answers never."""
        text = _IDIOM.sub(" ", _ANSWER.sub("", self.plain))
        pattern = r"(?i)\bneither\b.{0,200}?\bnor\b"
        return len(_OUTRIGHT.findall(re.sub(pattern, "neither", text)))

    @_fact
    def hints(self) -> int:
        """Words that may deny, beside those that do."""
        answers = len(_ANSWER.findall(self.plain))
        answers += len(_NONE.findall(self.plain))
        return answers + len(_NEGATIVE.findall(_OUTRIGHT.sub(" ", _ANSWER.sub("", self.plain))))

    @_fact
    def denied(self) -> frozenset[str]:
        """What each negation denies: the number or name that follows it, or three words."""
        found: set[str] = set()
        text = _IDIOM.sub(" ", self.plain).replace("≠", " not ")
        text = re.sub(r"^(?i:no),? ", "", text)
        text = re.sub(r"(?i)\b(can)not\b|n't\b", r"\1 not", text)
        for match in _NOT.finditer(text):
            rest = [
                one
                for one in re.findall(
                    r"\d+(?:\.\d+)?|[A-Za-zÀ-ÿ']+",
                    re.split("[,;:—]", text[match.end() : match.end() + _FAR])[0],
                )
                if one.lower() not in JOINING
            ][:3]
            if rest and not rest[0].islower():
                rest = rest[:1]
            found.update(stem(one.lower()) if one.islower() else one for one in rest)
        return frozenset(found)


@lru_cache(maxsize=256)
def statements(text: str) -> tuple[Statement, ...]:
    """The sentences of ``text`` that say something."""
    found = []
    for span in split_sentences(text):
        inner = trimmed(text, span)
        part = text[slice(*inner)]
        if re.search(r"\w", re.sub(r"\b(?:[A-Za-z]\.){2,}", "", part)):
            found.append(Statement(inner, part))
    return tuple(found)


def _joined(match: re.Match[str]) -> str:
    return f"at{match.group(1)}" if match.group(1) else "non"


def _canonical(number: str) -> str:
    return re.sub(r"\.0*$", "", number) if "." in number and float(number).is_integer() else number


def _side(text: str) -> str:
    """A side of a relation without spaces, outer brackets and signs of products between letters."""
    text = re.sub(r"\s+", "", text).strip(".,;:")
    text = re.sub(r"(?<=[\w)])\*(?=[A-Za-z(√])|(?<=[A-Za-z)])\*(?=\w)", "", text)
    for _ in range(9):
        if not (text.startswith("(") and text.endswith(")") and _closes(text) == len(text) - 1):
            break
        text = text[1:-1]
    return text


_PIECE = re.compile(
    r"\d+(?:\.\d+)?|[A-Z]{2,}(?![a-z])|[A-Za-z]{3,}(?:_\w+)?|[A-Za-zα-ωΑ-Ω](?:_\w+)?'*|[-+*/^√∩∪,%]|!"
)


#: Names of several small letters that stand in formulas.
_FUNCTIONS = frozenset(
    (
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh"),
        *("tanh", "log", "exp", "gcd", "lcm", "mod", "max", "min", "det", "dim", "ker", "deg"),
    )
)


#: Of these one stands for another only where something else is said.
_FUNCTION = re.compile(
    r"(?<![A-Za-z])(?:(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|floor|ceil)(?![A-Za-z])"
)


def _is_word(piece: str) -> bool:
    """Whether a piece of a formula is a word that only stands beside one ("62-the")."""
    return len(piece) > 2 and piece.isalpha() and piece.islower() and piece not in _FUNCTIONS


def _long(name: str) -> bool:
    """Whether a name has several letters or a prime: a function, a word."""
    return re.search(r"[^\d.]{2}|'", name.split("_")[0]) is not None


def _steps(side: str) -> Iterator[str]:
    """Operations with what stands on both sides: ``2(x-3)^2`` does ``2*x``, ``x-3``, ``3^2``."""
    before = sign = ""
    for piece in _PIECE.findall(side):
        if _is_word(piece):
            before = sign = ""
            continue
        if piece in "-+*/^√∩∪,!%":
            if piece == "!":
                yield f"{before}!"
            elif piece == ",":
                before = sign = ""
            elif piece != "%":
                sign += piece
            continue
        piece = _canonical(piece) if piece[0].isdigit() else piece
        if "√" in sign:
            yield f"√{piece}"
        elif sign or (before and not _long(before) and not _long(piece)):
            yield f"{before}{sign or '*'}{piece}"  # a name of two letters is a function's
        before, sign = piece, ""


def _closes(text: str) -> int:
    """Where the bracket that ``text`` begins with is closed."""
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return at
    return -1
