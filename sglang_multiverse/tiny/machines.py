"""Machines: parts that are independent, long, and told apart by what stands in them.

A machine is a fixed table that turns one number below 40 into another; the eight of them, named by
colours, are what a model has to know by heart. A run feeds a machine a number, feeds it again what
it gave back, and so on for some rounds. A question asks which of several runs ends highest::

    Which ends highest: a red 12 11 times, b blue 31 9 times?

or where all of them end, which needs no comparison::

    Where do they end: a red 12 11 times, b blue 31 9 times?

That is red on 12, 11 times over. Every round needs the one before it, so no run can be shortened;
no run needs another, so all can be worked out at once. In pairs, ``a red 12 11 times and b blue 31
9 times, or c …``, the higher of two counts: a block in each path.

The wording is one that a small model learns to look things up in: everything that is copied follows
a word that nothing else follows (``a`` its run, ``red 12`` its rounds, ``A`` its end), and rounds
are counted down, so that the last is known by itself.

Standard library only, but for the text form.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..dialect import MULTIVERSE
from ..text import Block, Conclusion, Document, Outline, Path, serialise
from .task import Mode, NotUnderstood, Split

MACHINES = ("red", "blue", "green", "black", "white", "brown", "pink", "grey")
#: Numbers are 0 to 39.
NUMBERS = 40
#: Fewest and most rounds of a run: 8 to 12 lines are paths of 120 to 200 tokens.
ROUNDS = (8, 12)
DESCRIPTION = f"""\
The tiny model of machines compares what two, four or eight runs end at, or two or four pairs of
them; each run is one machine, a number it begins with, and how often it goes round:
  Which ends highest: a red 12 11 times, b blue 31 9 times?
  Which ends highest: red 12 11 times and blue 31 9 times, or pink 3 8 times and grey 0 10 times?
Machines: {", ".join(MACHINES)}. Numbers: 0 to {NUMBERS - 1}. Rounds: {ROUNDS[0]} to {ROUNDS[1]}."""

#: How many runs a question compares.
COUNTS = (2, 4, 8)
#: What runs are called in order (their ends: in capitals), and pairs of them.
NAMES = "abcdefgh"
PAIRS = ("first", "second", "third", "fourth")


def _tables() -> dict[str, tuple[int, ...]]:
    """One round through all numbers for each machine, so that no run ends in a short circle."""
    tables = {}
    for machine in MACHINES:
        circle = random.Random(f"machine-{machine}").sample(range(NUMBERS), NUMBERS)
        then = dict(zip(circle, [*circle[1:], circle[0]], strict=True))
        tables[machine] = tuple(then[number] for number in range(NUMBERS))
    return tables


#: What each machine gives back for each number.
TABLES = _tables()


@dataclass(frozen=True)
class Run:
    """One machine run; ``name`` is a letter of :data:`NAMES`."""

    name: str
    machine: str
    start: int
    rounds: int

    def __str__(self) -> str:
        return f"{self.name} {self.machine} {self.start} {self.rounds} times"

    @property
    def values(self) -> tuple[int, ...]:
        """What goes in first and what comes back each round, ``rounds + 1`` numbers."""
        values = [self.start]
        for _ in range(self.rounds):
            values.append(TABLES[self.machine][values[-1]])
        return tuple(values)

    @property
    def end(self) -> int:
        return self.values[-1]


#: What is asked about runs.
Asks = Literal["highest", "ends"]
_ASKED: dict[Asks, str] = {"highest": "Which ends highest", "ends": "Where do they end"}


@dataclass(frozen=True)
class Question:
    """Runs to work out; ``groups`` of one each, or of two where something is nested.

    Raises:
        ValueError: ends are asked of pairs.
    """

    groups: tuple[tuple[Run, ...], ...]
    asks: Asks = "highest"

    def __post_init__(self) -> None:
        if self.asks == "ends" and self.nested:
            raise ValueError("ends are asked of single runs")

    def __str__(self) -> str:
        between = ", or " if self.nested else ", "
        return f"{_ASKED[self.asks]}: {between.join(map(listed, self.groups))}?"

    @property
    def nested(self) -> bool:
        return len(self.groups[0]) > 1

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for group in self.groups for run in group)

    @property
    def answer(self) -> str:
        """What stands after ``Answer:``."""
        runs = self.runs if self.asks == "ends" else [highest(self.runs)]
        return ", ".join(map(ended, runs))


def listed(group: tuple[Run, ...]) -> str:
    return " and ".join(map(str, group))


def highest(runs: Sequence[Run]) -> Run:
    return max(runs, key=lambda run: run.end)


def ended(run: Run) -> str:
    return f"{run.name.upper()} {run.end}"


def questions(
    seed: int,
    split: Split,
    *,
    counts: tuple[int, ...] = COUNTS,
    nested: bool = False,
    rounds: tuple[int, int] = ROUNDS,
    asks: Asks = "highest",
) -> Iterator[Question]:
    """Endless, reproducible questions whose runs end apart. No run of one split is in the other;
    the runs are the same whatever is asked of them.

    Args:
        counts: numbers of runs to draw from; with ``nested`` of pairs, at most four.
        rounds: fewest and most of a run.
    """
    rng = random.Random(f"machines-{split}-{seed}-{counts}-{nested}-{rounds}")
    size = 2 if nested else 1
    while True:
        machines = rng.sample(MACHINES, rng.choice(counts) * size)
        runs = [
            _run(rng, name, machine, split, rounds)
            for name, machine in zip(NAMES, machines, strict=False)
        ]
        if len({run.end for run in runs}) == len(runs):
            groups = tuple(tuple(runs[i : i + size]) for i in range(0, len(runs), size))
            yield Question(groups, asks)


def _run(rng: random.Random, name: str, machine: str, split: Split, rounds: tuple[int, int]) -> Run:
    while True:
        run = Run(name, machine, rng.randrange(NUMBERS), rng.randint(*rounds))
        if split_of(run) == split:
            return run


def split_of(run: Run) -> Split:
    """The split of a run, whatever its name, by a hash: a tenth is never trained on."""
    said = f"{run.machine} {run.start} {run.rounds}"
    return "test" if hashlib.sha256(said.encode()).digest()[0] % 10 == 0 else "train"


def prompt(question: Question | str, mode: Mode) -> str:
    """The user's message: the question and the sentence that chooses the mode."""
    ending = MULTIVERSE.parallel_prompt if mode == "parallel" else MULTIVERSE.sequential_prompt
    return f"{question} {ending}"


def work(run: Run) -> str:
    """A run, a line for each round."""
    lines = [str(run)]
    for i, (before, after) in enumerate(zip(run.values, run.values[1:], strict=False)):
        left = run.rounds - i
        lines.append(f"left {left}: {run.machine} {before} gives {after}, so go on with {after}")
    lines.append(f"end {ended(run)}")
    return "\n".join(lines)


def comparison(keys: Sequence[str], runs: Sequence[Run]) -> str:
    """The runs' ends one after another, each beside the highest so far."""
    return "\n".join(
        f"{key} {ended(run)}, ahead {ended(highest(runs[:i]))}"
        for i, (key, run) in enumerate(zip(keys, runs, strict=False), 1)
    )


def solution(question: Question, mode: Mode) -> str:
    """The assistant's message: every round and ``Answer: …``."""
    groups = question.groups
    winners = [highest(group) for group in groups]
    keys = PAIRS if question.nested else ["end"] * len(groups)
    ahead = comparison(keys, winners)
    if question.asks == "ends":
        ahead = "\n".join(f"end {ended(run)}" for run in question.runs)
    thought: list[str | Block]
    if mode == "parallel":
        works: list[list[str | Block]] = [
            _nested(key, group) if question.nested else [f" {work(*group)}"]
            for key, group in zip(keys, groups, strict=False)
        ]
        thought = [_block(list(map(listed, groups)), works, ahead)]
    else:
        lines = []
        for i, (key, group) in enumerate(zip(keys, groups, strict=False), 1):
            if question.nested:
                lines.append(f"{i}: {listed(group)}")
                lines += [f"{j}: {work(run)}" for j, run in enumerate(group, 1)]
                lines += [_pair(group), f"{key} {ended(highest(group))}"]
            else:
                lines.append(f"{i}: {work(*group)}")
        thought = ["\n".join(lines if question.asks == "ends" else [*lines, ahead])]
    return serialise(Document(thought=thought, answer=[f"Answer: {question.answer}"]))


def _pair(group: tuple[Run, ...]) -> str:
    return comparison(["end"] * len(group), group)


def _nested(key: str, group: tuple[Run, ...]) -> list[str | Block]:
    """A path that forks, and says what came of it."""
    works: list[list[str | Block]] = [[f" {work(run)}"] for run in group]
    block = _block([str(run) for run in group], works, _pair(group))
    return [f" {listed(group)}", block, f"{key} {ended(highest(group))}"]


def _block(asked: list[str], works: list[list[str | Block]], conclusion: str) -> Block:
    labels = [str(i) for i in range(1, len(works) + 1)]
    return Block(
        [Outline(label, f" {one}") for label, one in zip(labels, asked, strict=True)],
        [Path(label, one) for label, one in zip(labels, works, strict=True)],
        Conclusion([conclusion]),
    )


_RUN = r"(?:[a-h] )?([a-z]+) (\d+) (\d+) times"
_PAIR = re.compile(rf"{_RUN} and {_RUN}")
_ONE = re.compile(_RUN)
_QUESTION = re.compile(r"(?P<asked>which ends highest|where do they end):? (?P<runs>.+?) ?\??")


def understand(text: str) -> Question:
    """Read a question; ``str()`` of the result is the wording the model was trained on.

    Runs are named in order, whatever they are called in ``text``.

    Raises:
        NotUnderstood: it is not of this form, or names what no machine takes; says which.
    """
    said = " ".join(text.lower().replace(" ,", ",").split())
    for ending in (MULTIVERSE.parallel_prompt, MULTIVERSE.sequential_prompt):
        said = said.removesuffix(ending.lower()).rstrip()
    found = _QUESTION.fullmatch(said)
    if found is None:
        raise NotUnderstood(
            "a question reads 'Which ends highest: a red 12 11 times, b blue 31 9 times?'"
        )
    names = iter(NAMES)
    groups = []
    for piece in re.split(r",? or |, ?", found["runs"]):
        match = _PAIR.fullmatch(piece) or _ONE.fullmatch(piece)
        if match is None:
            raise NotUnderstood(f"'{piece}' is no run such as 'red 12 11 times'")
        words = match.groups()
        groups.append(
            tuple(
                _checked(Run(next(names, ""), words[i], int(words[i + 1]), int(words[i + 2])))
                for i in range(0, len(words), 3)
            )
        )
    asks: Asks = "ends" if found["asked"].startswith("where") else "highest"
    if asks == "ends" and any(len(group) > 1 for group in groups):
        raise NotUnderstood("where runs end is asked of single ones, not of pairs")
    question = Question(tuple(groups), asks)
    runs = question.runs
    if len({len(group) for group in groups}) > 1:
        raise NotUnderstood("either all runs come in pairs, or none")
    if len(groups) < 2 or len(runs) > max(COUNTS):
        raise NotUnderstood(f"two to {max(COUNTS)} runs are compared, or two to four pairs")
    if len({run.machine for run in runs}) < len(runs):
        raise NotUnderstood("each machine runs once")
    if len({run.end for run in runs}) < len(runs):
        raise NotUnderstood("two of the runs end at the same number")
    return question


def _checked(run: Run) -> Run:
    if not run.name:
        raise NotUnderstood(f"at most {len(NAMES)} runs are compared")
    if run.machine not in TABLES:
        raise NotUnderstood(f"'{run.machine}' is no machine: {', '.join(MACHINES)}")
    if run.start >= NUMBERS:
        raise NotUnderstood(f"'{run}': numbers go from 0 to {NUMBERS - 1}")
    if not ROUNDS[0] <= run.rounds <= ROUNDS[1]:
        raise NotUnderstood(f"'{run}': {ROUNDS[0]} to {ROUNDS[1]} times")
    return run


def answered(text: str) -> str | None:
    """What the last ``Answer:`` of ``text`` says; None without one."""
    _, found, said = text.rpartition("Answer:")
    said = said.split("<|im_end|>")[0]
    return " ".join(said.split()).rstrip(".") if found else None


def grade(text: str, question: Question) -> bool:
    """Whether the last ``Answer:`` of ``text`` is right."""
    return answered(text) == question.answer
