"""A dataset made ready: rows checked, made over for the variant, screened whole, packed."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from datasets import Dataset
from jinja2 import TemplateError
from trl.data_utils import get_dataset_column_names

from ..dialect import Dialect
from .collator import IGNORED, MultiverseCollator
from .modes import RowError, to_autoregressive, with_prompt_mode
from .refusals import ConfigError
from .rows import Shape, check_row, shape_of
from .screen import Screening, screen
from .sources import SourceError, in_stages

#: TRL's preparation, ``(dataset, settings, packing, formatting_func) -> dataset``.
Render = Callable[[Any, Any, bool, Any], Any]


@dataclass(frozen=True)
class Preparation:
    """What is done to every dataset before it is trained or evaluated on.

    Attributes:
        args: :class:`~sglang_multiverse.training.trainer.MultiverseSFTConfig`.
        rows: of the model's embedding: ids beyond have no meaning.
        collator: what takes loss is counted by it, as it masks tokens by itself.
    """

    args: Any
    tokenizer: Any
    dialect: Dialect
    rows: int
    collator: MultiverseCollator

    def __call__(
        self, dataset: Any, name: str, packing: bool, formatting_func: Any, render: Render
    ) -> tuple[Any, Screening | None]:
        """The dataset to train on, and the counts; None for a streamed one, read as it goes.

        Raises:
            ConfigError, RowError, SourceError: settings that contradict the data, or data that
                cannot be trained on.
            ExampleError: of the policies, or where nothing is left.
        """
        columns = self._columns(dataset, name)
        shape = None if formatting_func is not None else self._checked(dataset, name, columns)
        self._check_settings(dataset, name, columns, shape)

        def screened(texts: Any) -> tuple[Any, Screening | None]:
            return self._screened(texts, name, formatting_func, render)

        if shape is not None:
            dataset = self._lazily_checked(dataset, name, shape)
        dataset, dropped = self._made_over(dataset, name, shape, screened)
        dataset, counts = screened(dataset)
        if counts is not None:
            counts.dropped += dropped
        last = copy.copy(self.args)
        if not packing:
            last.max_length = None  # screened already: TRL's own passes would change nothing
        return render(dataset, last, packing, None), counts

    def _columns(self, dataset: Any, name: str) -> list[str]:
        check_filled(dataset, name)
        columns = get_dataset_column_names(dataset)
        if "seq_lengths" in columns:
            raise SourceError(
                f"the {name} dataset is packed already; give the texts one a row, and "
                "packing: true packs them after they are screened"
            )
        return list(columns)

    def _checked(self, dataset: Any, name: str, columns: list[str]) -> Shape:
        text = self.args.dataset_text_field
        shape = shape_of(columns, name, text)
        if isinstance(dataset, Dataset):
            conversational = _conversational(dataset, shape)
            for index, row in enumerate(dataset):
                self._check_row(row, index, name, shape, conversational)
        return shape

    def _check_row(
        self, row: Any, index: int, name: str, shape: Shape, conversational: bool
    ) -> None:
        text = self.args.dataset_text_field
        check_row(row, index, name, shape, text, conversational=conversational)
        if shape == "input_ids" and not 0 <= min(row["input_ids"]) <= max(row["input_ids"]) < (
            self.rows
        ):
            raise RowError(
                f"row {index} of the {name} dataset: ids from {min(row['input_ids'])} to "
                f"{max(row['input_ids'])}, the model has {self.rows} rows; tokenise the texts with "
                "this model's tokenizer"
            )
        turns = row.get("prompt", row.get("messages"))
        if self._changed(name) is None or not isinstance(turns, list):
            return
        if not any(turn["role"] == "user" for turn in turns):
            raise RowError(
                f"row {index} of the {name} dataset: no user's turn to end in the sentence of "
                f"{self._changed(name)}; leave the row out"
            )

    def _changed(self, name: str) -> str | None:
        """The setting that makes texts over."""
        if self.args.curriculum and name == "train":
            return "curriculum"
        if self.args.variant == "autoregressive":
            return "variant: autoregressive"
        return None if self.args.prompt_mode == "as-is" else f"prompt_mode: {self.args.prompt_mode}"

    def _lazily_checked(self, dataset: Any, name: str, shape: Shape) -> Any:
        """A streamed dataset whose rows are checked as they are read."""
        if isinstance(dataset, Dataset):
            return dataset

        conversational = _conversational(dataset, shape)

        def checked(row: Any, index: int) -> Any:
            self._check_row(row, index, name, shape, conversational)
            return row

        return dataset.map(checked, with_indices=True)

    def _check_settings(
        self, dataset: Any, name: str, columns: list[str], shape: Shape | None
    ) -> None:
        changed = self._changed(name)
        if changed is not None and shape not in ("prompt", "messages"):
            raise ConfigError(
                f"{changed} makes questions and answers over: give it 'prompt' and 'completion' or "
                f"'messages', neither tokenised nor through a formatting_func; the {name} dataset "
                f"has {', '.join(columns)}"
            )
        if changed == "curriculum" and not isinstance(dataset, Dataset):
            raise ConfigError("curriculum needs all its rows at once; set dataset_streaming: false")
        if shape in (None, "input_ids"):
            return
        if _conversational(dataset, shape) and not self.tokenizer.chat_template:
            raise ConfigError(
                f"the {name} dataset holds messages, and the tokenizer has no chat template; set "
                "chat_template_path, or give texts"
            )

    def _made_over(
        self, dataset: Any, name: str, shape: Shape | None, screened: Callable[[Any], Any]
    ) -> tuple[Any, Counter[str]]:
        """The texts of the variant, and why some of the given ones have none."""
        args, spec = self.args, self.dialect.spec
        if args.curriculum and name == "train":
            _, parallel = screened(dataset)
            return in_stages(dataset.select(parallel.rows), args.seed, spec), parallel.dropped
        mode, dropped = args.prompt_mode, Counter[str]()
        if args.variant == "autoregressive":
            _, parallel = screened(dataset)
            if parallel is not None:  # the twins of what Multiverse training keeps
                dataset, dropped = dataset.select(parallel.rows), parallel.dropped
            dataset = dataset.map(to_autoregressive, fn_kwargs={"spec": spec})
            mode = "as-is" if mode == "as-is" else "sequential"
        if mode != "as-is":
            dataset = dataset.map(with_prompt_mode, fn_kwargs={"mode": mode, "spec": spec})
        return dataset, dropped

    def _screened(
        self, texts: Any, name: str, formatting_func: Any, render: Render
    ) -> tuple[Any, Screening | None]:
        whole = copy.copy(self.args)
        whole.max_length, whole.shuffle_dataset = None, False
        try:
            rendered = render(texts, whole, False, formatting_func)
        except TemplateError as error:
            raise RowError(
                f"the chat template cannot render a conversation of the {name} dataset ({error}); "
                "leave such rows out, or set another chat_template_path"
            ) from error
        return screen(
            rendered,
            self.dialect,
            max_length=self.args.max_length,
            overlong=self.args.overlong,
            malformed=self.args.malformed,
            name=name,
            num_proc=self.args.dataset_num_proc,
            trained=partial(with_loss, self.collator),
        )


def _conversational(dataset: Any, shape: Shape) -> bool:
    return isinstance(next(iter(dataset)).get(shape), list)


def check_filled(dataset: Any, name: str) -> None:
    """Raise :class:`SourceError` for a dataset without rows."""
    if dataset is not None and next(iter(dataset), None) is None:
        raise SourceError(f"the {name} dataset has no rows; give it some, or name another split")


def with_loss(collator: MultiverseCollator, ids: list[int], labels: list[int]) -> int:
    """Tokens of one text that carry loss once collated; its first one is predicted by nothing."""
    batch = collator.torch_call([{"input_ids": ids, "labels": labels}])
    return int((batch["labels"][0, 1:] != IGNORED).sum())
