"""The front matter of a dataset card, as the hub reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .summary import Summary

#: Rows below which a dataset is of a size the hub knows by this name.
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
)


def front(summary: Summary, rows: int, folder: Path, *, mixed: bool) -> str:
    """YAML between its rulers. Features, splits and bytes are those of the files in ``folder``."""
    from huggingface_hub import DatasetCardData

    card, source = summary.about["card"], summary.about["source"]
    names = {"default": "data", **({"mixed": "mixed"} if mixed else {})}
    configs: list[dict[str, Any]] = [
        {
            "config_name": name,
            "data_files": [{"split": "train", "path": f"{place}/train-*"}],
            **({"default": True} if name == "default" else {}),
        }
        for name, place in names.items()
    ]
    data = DatasetCardData(
        language=card.get("language") or None,
        license=card["license"],
        pretty_name=card["name"],
        size_categories=next((name for most, name in _SIZES if rows < most), "n>1M"),
        source_datasets=[source["dataset"]] if source["dataset"] else None,
        tags=["multiverse", "parallel-reasoning", "synthetic"],
        task_categories=["text-generation"],
        configs=configs,
        dataset_info=[_info(name, folder / place) for name, place in names.items()],
    )
    return f"---\n{data.to_yaml()}\n---"


def _info(name: str, folder: Path) -> dict[str, Any]:
    import pyarrow.parquet as parquet
    from datasets import Features

    files = sorted(folder.glob("*.parquet"))
    metas = [parquet.ParquetFile(file).metadata for file in files]
    features = Features.from_arrow_schema(parquet.read_schema(files[0]))
    groups = [meta.row_group(at) for meta in metas for at in range(meta.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    return {
        "config_name": name,
        "features": features._to_yaml_list(),
        "splits": [
            {
                "name": "train",
                "num_bytes": size,
                "num_examples": sum(meta.num_rows for meta in metas),
            }
        ],
        "download_size": sum(file.stat().st_size for file in files),
        "dataset_size": size,
    }
