"""Prompts to sample from: any dataset's rows, as TRL and the rewards take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace
from typing import Any, Literal

from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from ...dialect import MULTIVERSE, DialectSpec
from ...tiny import task
from ..sources import TINY, SourceError, load
from ..sources import split as split_of
from .completion import EXTRAS
from .rewards.checked import FROM_TRL

#: Half of the sentence that asks for parallel steps. No training text has it: of the tiny model's
#: answers to it, some fork and some do not.
OPEN_ENDING = "Think step by step and in parallel."

#: Splits with rows to examine on, the first that is there.
TEST_SPLITS = ("test", "validation")
#: Columns that TRL takes for pictures or keeps for itself.
_TAKEN = {*FROM_TRL, *EXTRAS, "completion", "environment", "image", "images"}

PromptFormat = Literal["chat", "raw"]
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Reading:
    """How a row becomes a prompt.

    Attributes:
        column: of the prompt, a text or messages.
        format: a text becomes a user's message (``chat``), or is what the model goes on with
            (``raw``).
        ending: the sentence that ends the text or the last message; ``parallel`` and
            ``sequential`` are those that the dialect's models were trained on.
        system: a system message before all others.
    """

    column: str = "prompt"
    format: PromptFormat = "chat"
    ending: str | None = None
    system: str | None = None

    def prompt(self, value: Any, at: str, spec: DialectSpec = MULTIVERSE) -> str | Messages:
        """The prompt of one row.

        Raises:
            SourceError: it is neither a text nor messages that end with a user's, or is empty.
        """
        if isinstance(value, str):
            if not value.strip():
                raise SourceError(f"{at}: {self.column} is empty; leave such rows out")
            text = self._ended(value, spec)
            if self.format == "raw":
                return text
            return [*self._before(), {"role": "user", "content": text}]
        messages = self._messages(value, at)
        if self.format == "raw":
            raise SourceError(
                f"{at}: {self.column} holds messages, and prompt_format raw is for texts"
            )
        last = messages[-1]
        return [
            *([] if messages[0]["role"] == "system" else self._before()),
            *messages[:-1],
            {**last, "content": self._ended(last["content"], spec)},
        ]

    def _messages(self, value: Any, at: str) -> Messages:
        sound = (
            isinstance(value, list)
            and value
            and all(
                isinstance(turn, dict)
                and isinstance(turn.get("role"), str)
                and isinstance(turn.get("content"), str)
                for turn in value
            )
            and value[-1]["role"] == "user"
            and value[-1]["content"].strip()
        )
        if not sound:
            shown = " ".join(repr(value).split())[:80]
            raise SourceError(
                f"{at}: {self.column} is {shown}; it is a text, or messages with role and "
                "content (texts) of which the last is the user's"
            )
        return [{"role": turn["role"], "content": turn["content"]} for turn in value]

    def _before(self) -> Messages:
        return [{"role": "system", "content": self.system}] if self.system else []

    def _ended(self, text: str, spec: DialectSpec) -> str:
        known = {"parallel": spec.parallel_prompt, "sequential": spec.sequential_prompt}
        ending = known.get(self.ending or "", self.ending)
        return f"{text.rstrip()} {ending}" if ending else text


def read_splits(
    name: str,
    reading: Reading,
    *,
    config: str | None = None,
    split: str = "train",
    test_split: str | None = None,
    exam: int = 0,
) -> tuple[Dataset, Dataset]:
    """Rows to train on, and up to ``exam`` rows that are not trained on.

    The latter are of ``test_split``, or else of a split in :data:`TEST_SPLITS`, or else the last
    tenth of the former. Each row has a ``prompt`` and the dataset's other columns.

    Args:
        name: a Hub name, a folder, or a ``.jsonl``, ``.json``, ``.parquet`` or ``.csv`` file.

    Raises:
        SourceError: no such data, split or column; a row that is no prompt.
    """
    found = _load(name, config, split)
    train = split_of(found, split, "dataset_split")
    if not len(train):
        raise SourceError(f"{name} {split} has no rows")
    if test_split is not None:
        test = split_of(found, test_split, "test_split")
    else:
        others = [one for one in TEST_SPLITS if one in found and one != split]
        test = found[others[0]] if others else None
    if test is None:
        held = min(exam, len(train) // 10)
        test = train.select(list(range(len(train) - held, len(train))))
        train = train.select(list(range(len(train) - held)))
    else:
        test = test.select(list(range(min(exam, len(test)))))
    return _prompts(train, reading, f"{name} {split}"), _prompts(test, reading, f"{name} test")


def tiny_splits(
    seed: int, kinds: Sequence[str], ending: str | None, rows: int, exam: int
) -> tuple[Dataset, Dataset]:
    """Questions of the tiny task, each in ``prompt`` and, bare, in ``question``."""
    reading = Reading(ending=OPEN_ENDING if ending is None else ending)

    def made(seed: int, split: task.Split, count: int) -> Dataset:
        problems = islice(task.generate(seed, split, dict.fromkeys(kinds, 1.0)), count)
        return Dataset.from_list(
            [
                {"prompt": reading.prompt(str(one), f"{TINY} {split}"), "question": str(one)}
                for one in problems
            ]
        )

    return made(seed, "train", rows), made(2026, "test", exam)


def that_fit(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, most: int, **template: Any
) -> tuple[Dataset, int]:
    """The rows whose prompt takes at most ``most`` tokens, and how many do not.

    Raises:
        SourceError: none does, or the tokenizer has no chat template for messages.
    """
    if not len(rows):
        return rows, 0
    kept = [
        i for i, row in enumerate(rows) if len(encode(row["prompt"], tokenizer, **template)) <= most
    ]
    if not kept:
        raise SourceError(
            f"each of {len(rows)} prompts takes over {most} tokens; lower max_completion_length, "
            "or serve and train a model with a longer context"
        )
    return rows.select(kept), len(rows) - len(kept)


def encode(
    prompt: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat_template: str | None = None,
    **more: Any,
) -> list[int]:
    """Token ids of a prompt, with the opening of the model's turn behind messages.

    Raises:
        SourceError: there is no chat template for messages.
    """
    if isinstance(prompt, str):
        return [int(token) for token in tokenizer(text=prompt)["input_ids"]]
    if not (chat_template or tokenizer.chat_template):
        raise SourceError(
            "the tokenizer has no chat template for messages; give texts with prompt_format: raw, "
            "or a template with chat_template_path"
        )
    ids = tokenizer.apply_chat_template(
        prompt, chat_template=chat_template, add_generation_prompt=True, return_dict=False, **more
    )
    return [int(token) for token in ids]


def _load(name: str, config: str | None, split: str) -> DatasetDict:
    script = SimpleNamespace(
        dataset_name=name,
        dataset_config=config,
        dataset_streaming=False,
        dataset_train_split=split,
        dataset_test_split=TEST_SPLITS[0],
    )
    return load(script, SimpleNamespace(datasets=None))


def _prompts(rows: Dataset, reading: Reading, where: str) -> Dataset:
    columns = list(rows.column_names)
    if reading.column not in columns:
        raise SourceError(
            f"{where} has no column {reading.column!r}; it has {', '.join(columns)}: name the "
            "prompt's with --prompt_column"
        )
    taken = sorted((_TAKEN & set(columns)) - {reading.column})
    if taken:
        raise SourceError(
            f"{where} has the columns {', '.join(taken)}, names that rewards are given other "
            "things by; rename them"
        )
    made = [
        reading.prompt(value, f"{where}, row {i}") for i, value in enumerate(rows[reading.column])
    ]
    kept = rows.remove_columns("prompt") if "prompt" in columns else rows
    return kept.add_column("prompt", made)
