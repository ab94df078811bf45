"""Where training data comes from: the Hub, files, the tiny task; and the curriculum over it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from trl import get_dataset

from ..curriculum import curriculum
from ..dialect import MULTIVERSE, DialectSpec
from ..tiny import MODEL_DIR
from ..tiny.dataset import tiny_rows
from .modes import to_autoregressive, with_prompt_mode
from .refusals import told

#: The name under which the embedded model and its task go.
TINY = "tiny"

_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


class SourceError(ValueError):
    """Data that cannot be found or used; the message says what was looked for."""


def model_path(name: str | None) -> str:
    """The path or Hub name of a model; ``tiny`` is the model that ships with the package."""
    if name is None:
        raise SourceError("which model? set model_name_or_path, or choose a recipe that does")
    return str(MODEL_DIR) if name == TINY else name


def load(script: Any, mixture: Any) -> DatasetDict:
    """The splits that the arguments name.

    Args:
        script: :class:`~sglang_multiverse.training.settings.SFTScriptArguments`; ``dataset_name``
            is a Hub name, a folder (data files, or saved by ``save_to_disk``), a ``.jsonl``,
            ``.json``, ``.parquet`` or ``.csv`` file, or ``tiny``.
        mixture: TRL's ``DatasetMixtureConfig``, which wins where it lists datasets.

    Raises:
        SourceError: there is no such data, or it cannot be read.
    """
    if mixture.datasets:
        return _mixed(mixture)
    name = script.dataset_name
    if name is None:
        raise SourceError("which data? set dataset_name, or list datasets in the config")
    if name == TINY:
        return DatasetDict(
            {
                script.dataset_train_split: Dataset.from_list(
                    tiny_rows(script.tiny_seed, "train", script.tiny_rows)
                ),
                script.dataset_test_split: Dataset.from_list(tiny_rows(0, "test", 100)),
            }
        )
    path = Path(name)
    _check_path(name, "dataset_name")
    with _reading(name):
        if path.is_file():
            return load_dataset(
                _READERS[path.suffix],
                data_files={script.dataset_train_split: str(path)},
                streaming=script.dataset_streaming,
            )
        if (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists():
            saved = load_from_disk(name)
            if isinstance(saved, DatasetDict):
                return saved
            return DatasetDict({script.dataset_train_split: saved})
        return load_dataset(name, name=script.dataset_config, streaming=script.dataset_streaming)


def _mixed(mixture: Any) -> DatasetDict:
    mixed = copy.deepcopy(mixture)
    for place, one in enumerate(mixed.datasets):
        _check_path(one.path, f"datasets[{place}].path")
        path = Path(one.path)
        if path.is_file():  # as dataset_name takes a file; TRL itself wants its reader's name
            one.path, one.data_files = _READERS[path.suffix], str(path)
    with _reading(", ".join(one.path for one in mixture.datasets)):
        return get_dataset(mixed)


def _check_path(name: str, field: str) -> None:
    """Raise :class:`SourceError` for a name that reads as a path and leads nowhere."""
    path = Path(name)
    as_path = name.startswith((".", "/", "~")) or path.suffix in _READERS
    if as_path and not path.exists():
        raise SourceError(
            f"{field} {name}: no such file or folder (looked in {path.absolute().parent})"
        )
    if path.is_file() and path.suffix not in _READERS:
        raise SourceError(
            f"{field} {path}: cannot read {path.suffix!r}; one of {', '.join(_READERS)}"
        )
    if path.is_file() and _blank(path):
        raise SourceError(f"{field} {path}: the file is empty; write a row a line into it")
    if path.is_dir() and not any(path.iterdir()):
        raise SourceError(f"{field} {path}: the folder is empty; put data files into it")


def _blank(path: Path) -> bool:
    """Whether there is nothing in the file, or nothing but white space in one of text."""
    if path.suffix == ".parquet" or not path.stat().st_size:
        return not path.stat().st_size
    with path.open("rb") as file:
        return all(not part.strip() for part in iter(lambda: file.read(1 << 16), b""))


def _reading(name: str) -> Any:
    return told(
        f"dataset {name} cannot be read",
        "name a dataset of the Hub, a folder, or a .jsonl, .json, .parquet or .csv file whose "
        "rows all have the same columns",
        SourceError,
    )


def split(dataset: DatasetDict, name: str, field: str, or_else: str = "") -> Any:
    """The rows of one split, which ``field`` chooses.

    Args:
        or_else: how to do without, for the error.

    Raises:
        SourceError: there is no such split.
    """
    if name not in dataset:
        raise SourceError(
            f"the dataset has no split {name!r}; it has {', '.join(map(str, dataset))}: name one "
            f"of these with {field}{or_else}"
        )
    return dataset[name]


def in_stages(dataset: Dataset, seed: int, spec: DialectSpec = MULTIVERSE) -> Dataset:
    """Eight passes over ``dataset`` from autoregressive to parallel, in training order.

    Takes rows of parallel text that have been screened; see :mod:`sglang_multiverse.curriculum`.
    """
    parallel = [with_prompt_mode(row, "auto", spec) for row in dataset]
    flat = [with_prompt_mode(to_autoregressive(row, spec), "sequential", spec) for row in dataset]
    return Dataset.from_list(
        [
            (parallel if as_parallel else flat)[row]
            for one in curriculum(len(parallel), seed)
            for row, as_parallel in one
        ]
    )
