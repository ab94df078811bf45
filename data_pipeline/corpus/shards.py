"""Parquet in shards: rows in, one at a time; files of bounded size with one schema out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

#: Bytes of text a row group holds, which is what is in memory, and bytes of text a shard holds.
GROUP, SHARD = 8 << 20, 256 << 20


def write_shards(
    rows: Iterable[dict[str, Any]],
    folder: Path,
    schema: pa.Schema,
    *,
    group: int = GROUP,
    shard: int = SHARD,
) -> list[Path]:
    """Write ``rows`` to ``folder`` as ``train-00000-of-0000N.parquet`` and so on; the paths.

    Every file has ``schema``, whatever the rows lack, so that files of several exports are shards
    of one dataset. No more than ``group`` bytes of text are held at a time.

    Raises:
        pyarrow.ArrowInvalid: a row does not fit ``schema``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    writer: pq.ParquetWriter | None = None
    written = 0
    try:
        for some, size in _groups(rows, group):
            if writer is None or written + size > shard:
                if writer is not None:
                    writer.close()
                parts.append(folder / f"{len(parts):05}.part")
                writer, written = pq.ParquetWriter(parts[-1], schema), 0
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
            written += size
    finally:
        if writer is not None:
            writer.close()
    return [
        part.rename(folder / f"train-{number:05}-of-{len(parts):05}.parquet")
        for number, part in enumerate(parts)
    ]


def _groups(
    rows: Iterable[dict[str, Any]], most: int
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """``rows`` in lists of about ``most`` bytes of text, with their sizes."""
    some: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        some.append(row)
        size += sum(map(_size, row.values()))
        if size >= most:
            yield some, size
            some, size = [], 0
    if some:
        yield some, size


def _size(value: Any) -> int:
    """Characters of the texts in ``value``, and a few bytes for whatever else it is."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 8
