"""Synthetic chains of known steps, the replies a teacher would give, and stores full of them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sglang_multiverse.data_pipeline.config import Source
from sglang_multiverse.data_pipeline.pipeline import outcome_of
from sglang_multiverse.data_pipeline.recipe import Recipe
from sglang_multiverse.data_pipeline.record import Record
from sglang_multiverse.data_pipeline.source.ingest import read_record
from sglang_multiverse.data_pipeline.stages import curate
from sglang_multiverse.data_pipeline.store.store import Store
from sglang_multiverse.data_pipeline.teacher.call import Reply
from sglang_multiverse.data_pipeline.teacher.cassette import Replied
from sglang_multiverse.data_pipeline.teacher.task import Task

SOURCE = Source(files=[Path("synthetic.jsonl")])
#: Sentences per step; a chain has two opening steps, `BLOCKS` groups of three, and an end.
SENTENCES, BLOCKS, PATHS = 12, 4, 3


class Item:
    """A chain of plausible length with known steps, and the replies a teacher would give to it."""

    def __init__(self, number: int):
        self.number = number
        self.question = f"Synthetic problem {number}: how many marbles are in the {number}th jar?"
        self.random = random.Random(number)
        self.kinds = ["step", *(["group", "step"] * BLOCKS)]
        # No number twice, or a path would seem to have it from a sibling.
        self.numbers = iter(self.random.sample(range(1, 3000), 2999))
        self.texts: list[str] = []
        for kind in self.kinds:
            self.texts += [self.step() for _ in range(PATHS if kind == "group" else 1)]
        self.texts[-1] += f" The final answer is \\boxed{{{number}}}."

    def step(self) -> str:
        """Some sentences with numbers in them."""
        numbers = self.numbers
        return " ".join(
            f"Jar {next(numbers)} holds {next(numbers)} marbles, of which {next(numbers)} are blue "
            f"and $x_{{{next(numbers)}}} < {next(numbers)}$ are not."
            for _ in range(SENTENCES)
        )

    @property
    def chain(self) -> str:
        return "\n".join(self.texts)

    def reply(self, task: Task) -> Replied:
        made = {
            "outline-steps": self.steps,
            "outline-groups": self.groups,
            "fill": self.fill,
            "frame": self.frame,
        }
        return Replied(made[task.stage]() if task.stage in made else self.block(task.subject))

    def steps(self) -> str:
        return "\n".join(f"S{n}: Count the jars of step {n}" for n in self.labels())

    def labels(self) -> range:
        return range(1, len(self.texts) + 1)

    def groups(self) -> str:
        lines, label = [], 0
        for kind in self.kinds:
            branches = []
            for _ in range(PATHS if kind == "group" else 1):
                label += 1
                branches.append(f"S{label}: Count the jars of step {label}")
            if kind == "group":
                lines += ["<parallel>", "Reason: other jars.", *branches, "</parallel>"]
            else:
                lines += branches
        return "\n".join(lines)

    def fill(self) -> str:
        lines, at = [], 1
        for label, text in zip(self.labels(), self.texts, strict=True):
            count = text.count(". ") + 1
            lines.append(f"S{label}: {at}-{at + count - 1}")
            at += count
        return "\n".join(lines)

    def frame(self) -> str:
        lines = []
        for block in range(1, BLOCKS + 1):
            lines.append(f"B{block}")
            lines += [f"{n}: Count the jars of part {block}.{n}." for n in range(1, PATHS + 1)]
            lines.append(f"Conclusion: The jars of part {block} are counted.")
        return "\n".join(lines)

    def block(self, subject: str) -> str:
        number = int(subject[1:])
        first = (number - 1) * (PATHS + 1) + 1
        outlines = "".join(
            f"<Outline>\n{n}: Count the jars of part {number}.{n}.\n</Outline>\n"
            for n in range(1, PATHS + 1)
        )
        paths = "".join(
            f"<Path>\n{n}: {self.texts[first + n - 1]}\n</Path>\n" for n in range(1, PATHS + 1)
        )
        return (
            f"<Parallel>\n<Goal>\n{outlines}</Goal>\n{paths}<Conclusion>\n"
            f"The jars of part {number} are counted.\n</Conclusion>\n</Parallel>"
        )

    def row(self) -> str:
        return json.dumps(
            {
                "question": self.question,
                "deepseek_thinking_trajectory": self.chain,
                "deepseek_attempt": f"There are $\\boxed{{{self.number}}}$.",
                "solution": str(self.number),
            }
        )

    def record(self) -> Record:
        """The item as the stages take it."""
        made = read_record(json.loads(self.row()), self.number, SOURCE)
        assert isinstance(made, Record)
        return made

    def curated(self, recipe: Recipe) -> Record:
        """What the stages make of it, without store or server."""
        steps = curate(self.record(), recipe)
        try:
            call = next(steps)
            while True:
                task = Task.read(call.messages[-1].content)
                assert task is not None
                call = steps.send(Reply(self.reply(task).text or ""))
        except StopIteration as end:
            made = end.value
        assert isinstance(made, Record), made
        return made


def fill_store(
    path: Path, items: int, *, made: Sequence[Record] | None = None, padding: int = 0
) -> None:
    """A store with a run of ``items`` accepted items, as it would leave it, but for their calls.

    Args:
        made: what they are in turn; None takes some synthetic ones.
        padding: characters of one more column of the source.
    """
    recipe = Recipe("teacher")
    made = made or [Item(number).curated(recipe) for number in range(min(8, items))]
    about = {
        "recipe": recipe.row(),
        "base_url": "http://replay/v1",
        "prices": {"currency": "USD"},
        "card": {"name": "synthetic", "license": None, "source_license": None, "terms": None},
        "source": SOURCE.model_dump(mode="json"),
        "skipped": {},
    }
    filler = {"gemini_thinking_trajectory": "Hm. " * (padding // 4)} if padding else {}
    columns = [{**record.columns, **filler} for record in made]
    ids = [f"{number:016x}" for number in range(items)]
    with Store(path) as store:
        store._db.execute("PRAGMA synchronous = OFF")
        store.put_run("r", about, ((item, columns[n % len(made)]) for n, item in enumerate(ids)))
        outcomes = [outcome_of(record, record) for record in made]
        for number, item in enumerate(ids):
            store.settle("r", replace(outcomes[number % len(made)], item=item))
