"""The questions of a task: read from a file, from the Hub, or made."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from .. import corpus
from ..text import encodable
from .grading import Comparison

#: sha256 and number of rows of ``gpqa_diamond.csv`` as its authors publish it. It does not ship:
#: they ask that no question be shown in clear on the web.
GPQA_SHA256 = "41d1213cd7a4998605a26c2798500652572007161b3a92817ba46b35befcd305"
GPQA_ROWS = 198
_GPQA_COLUMNS = (
    "Question",
    "Correct Answer",
    "Incorrect Answer 1",
    "Incorrect Answer 2",
    "Incorrect Answer 3",
)
_QUESTION = ("question", "problem", "prompt", "Problem", "Question")
_ANSWER = ("answer", "expected_answer", "Answer", "solution")
_ID = ("id", "unique_id", "ID", "problem_idx", "key")


class QuestionsError(ValueError):
    """Questions that cannot be read; the message says where and what to do."""


@dataclass(frozen=True)
class Asked:
    """One question.

    Attributes:
        text: what the user says, but for the sentence that chooses the mode.
        reference: the right answer; empty where ``extra`` says what is right.
        extra: what a scorer needs besides (instructions of ifeval).
    """

    id: str
    text: str
    reference: str
    comparison: Comparison = "mathematics"
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Questions:
    """Questions of one task.

    Attributes:
        source: where they are from, for the report's head.
        sha256: of what was asked and is right, whatever the file is like.
        private: whether their text must not be published.
    """

    asked: tuple[Asked, ...]
    source: str
    private: bool = False

    @property
    def sha256(self) -> str:
        rows = [[one.id, one.text, one.reference] for one in self.asked]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def from_rows(data: str, ending: str = "") -> Questions:
    """Questions with a reference answer.

    Args:
        data: a JSONL file, or ``owner/name`` or ``owner/name:split`` of a dataset on the Hub (split
            ``test`` or, without one, ``train``).
        ending: a sentence each question is to end with, such as how to give the answer.

    Raises:
        QuestionsError: there is no such file or dataset, or a row lacks its question or answer.
    """
    asked = []
    for number, row in enumerate(_rows(data), start=1):
        text, answer = _first(row, _QUESTION), _first(row, _ANSWER)
        if text is None or answer is None:
            lacks = "a question" if text is None else "an answer"
            raise QuestionsError(
                f"{data}, row {number} lacks {lacks}: its columns are {', '.join(map(str, row))}; "
                f"questions are read from {', '.join(_QUESTION)}, answers from {', '.join(_ANSWER)}"
            )
        whole = encodable(f"{str(text).strip()} {ending}".strip())
        reference = encodable(str(answer).strip())
        asked.append(Asked(_name(row, number), whole, reference))
    return Questions(_distinct(asked, data), data)


def gpqa(data: str, ending: str = "", *, checked: bool = True) -> Questions:
    """The questions of ``gpqa_diamond.csv``, their choices shuffled with a seed of their own.

    Raises:
        QuestionsError: the file is another one, by its sha256, unless ``checked`` is false.
    """
    path = Path(data)
    if not path.is_file():
        raise QuestionsError(
            f"{data}: no such file; gpqa_diamond.csv is at https://github.com/idavidrein/gpqa"
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if checked and found != GPQA_SHA256:
        raise QuestionsError(
            f"{data} is not gpqa_diamond.csv as published: its sha256 is {found[:12]}…, not "
            f"{GPQA_SHA256[:12]}…"
        )
    rows = list(csv.DictReader(content.decode("utf-8").splitlines(keepends=True)))
    if checked and len(rows) != GPQA_ROWS:
        raise QuestionsError(f"{data} has {len(rows)} rows, not {GPQA_ROWS}")
    asked = []
    for number, row in enumerate(rows):
        try:
            question, right, *wrong = (row[name].strip() for name in _GPQA_COLUMNS)
        except (KeyError, AttributeError):
            raise QuestionsError(
                f"{data}, row {number + 1} lacks one of {', '.join(_GPQA_COLUMNS)}"
            ) from None
        choices = [right, *wrong]
        random.Random(f"gpqa-{number}").shuffle(choices)
        letter = "ABCD"[choices.index(right)]
        listed = "\n".join(f"({one}) {choice}" for one, choice in zip("ABCD", choices, strict=True))
        text = f"{question}\n\n{listed}\n\n{ending}".strip()
        asked.append(Asked(f"gpqa/{number}", text, letter, "choice"))
    return Questions(tuple(asked), path.name, private=True)


def made(task: str, count: int, seed: int) -> Questions:
    """Questions that the tiny models have not seen: ``machines``, ``nested`` (machines whose runs
    come in pairs) or ``sums``.

    Raises:
        QuestionsError: ``task`` is none of them.
    """
    from ..tiny import machines
    from ..tiny import task as sums

    kinds: dict[str, Callable[[], Iterator[Any]]] = {
        "machines": lambda: machines.questions(seed, "test"),
        "nested": lambda: machines.questions(seed, "test", counts=(2, 4), nested=True),
        "sums": lambda: sums.generate(seed, "test"),
    }
    if task not in kinds:
        raise QuestionsError(f"no questions {task!r}: one of {', '.join(kinds)}")
    asked = tuple(
        Asked(f"{task}/{seed}/{number}", str(one), str(one.answer), "words")
        for number, one in enumerate(islice(kinds[task](), count))
    )
    return Questions(asked, f"sglang_multiverse.tiny, {task}, seed {seed}")


def ifeval(data: str) -> Questions:
    """Instructions to be checked by program: rows with ``prompt``, ``instruction_id_list`` and
    ``kwargs``, as google/IFEval has them."""
    asked = []
    for number, row in enumerate(_rows(data), start=1):
        wanted = ("prompt", "instruction_id_list", "kwargs")
        if not all(name in row for name in wanted):
            raise QuestionsError(f"{data}, row {number} lacks one of {', '.join(wanted)}")
        try:
            prompt = encodable(row["prompt"])
            extra = {
                "instructions": list(row["instruction_id_list"]),
                "kwargs": [
                    {name: value for name, value in one.items() if value is not None}
                    for one in row["kwargs"]
                ],
                "prompt": prompt,
            }
        except (TypeError, AttributeError) as error:
            raise QuestionsError(
                f"{data}, row {number} is none of google/IFEval: {error}"
            ) from None
        asked.append(Asked(_name(row, number), prompt, "", extra=extra))
    return Questions(_distinct(asked, data), data)


def _rows(data: str) -> Iterator[Mapping[str, Any]]:
    path = Path(os.path.expanduser(data))  # which takes a user that there is not
    if path.is_file():
        yield from _of_file(path)
    elif path.suffix or data.startswith((".", "/", "~")) or data.count("/") != 1:
        raise QuestionsError(f"{data}: no such file, and no name of a dataset on the Hub")
    else:
        yield from _of_hub(data)


def _of_file(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        for row in corpus.rows(str(path)):
            if isinstance(row, corpus.BadRow):
                raise QuestionsError(str(row))
            yield row[1]
    except corpus.CorpusError as error:
        raise QuestionsError(str(error)) from error


def _of_hub(data: str) -> Iterator[Mapping[str, Any]]:
    from datasets import get_dataset_split_names, load_dataset

    name, _, split = data.partition(":")
    try:
        if not split:
            split = "test" if "test" in get_dataset_split_names(name) else "train"
        yield from map(dict, load_dataset(name, split=split))
    except Exception as error:  # of the hub client, of many kinds
        raise QuestionsError(f"{data} cannot be read from the Hub: {error}") from error


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _name(row: Mapping[str, Any], number: int) -> str:
    name = _first(row, _ID)
    return encodable(str(number if name is None else name))


def _distinct(asked: list[Asked], data: str) -> tuple[Asked, ...]:
    if not asked:
        raise QuestionsError(f"{data} holds no question")
    seen: dict[str, int] = {}
    for one in asked:
        seen[one.id] = seen.get(one.id, 0) + 1
    twice = [name for name, count in seen.items() if count > 1]
    if twice:
        raise QuestionsError(f"{data}: {len(twice)} ids stand twice, such as {twice[0]}")
    return tuple(asked)
