"""Where training data comes from: the Hub, files, the tiny task; and the curriculum over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from trl import get_dataset

from ..curriculum import curriculum
from ..dialect import MULTIVERSE, DialectSpec
from ..tiny import MODEL_DIR
from ..tiny.dataset import tiny_rows
from .modes import to_autoregressive, with_prompt_mode

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
        script: :class:`~sglang_multiverse.training.sft.SFTScriptArguments`; ``dataset_name`` is a
            Hub name, a folder (data files, or saved by ``save_to_disk``), a ``.jsonl``, ``.json``,
            ``.parquet`` or ``.csv`` file, or ``tiny``.
        mixture: TRL's ``DatasetMixtureConfig``, which wins where it lists datasets.
    """
    if mixture.datasets:
        return get_dataset(mixture)
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
    if path.is_file():
        if path.suffix not in _READERS:
            raise SourceError(f"{path}: cannot read {path.suffix!r}; one of {', '.join(_READERS)}")
        reader = _READERS[path.suffix]
        return load_dataset(
            reader,
            data_files={script.dataset_train_split: str(path)},
            streaming=script.dataset_streaming,
        )
    if (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists():
        saved = load_from_disk(name)
        if isinstance(saved, DatasetDict):
            return saved
        return DatasetDict({script.dataset_train_split: saved})
    return load_dataset(name, name=script.dataset_config, streaming=script.dataset_streaming)


def split(dataset: DatasetDict, name: str) -> Any:
    if name not in dataset:
        raise SourceError(
            f"the dataset has no split {name!r}; it has {', '.join(dataset)}. Name another "
            "(dataset_train_split, dataset_test_split), or train without one: eval_strategy: 'no', "
            "eval_generations: 0"
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
