"""``multiverse bench steps``: forward steps against critical path and sequential tokens."""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..server import Server
from .forwards import in_parallel
from .scripted import write_scripts
from .servers import serving
from .shapes import Author, Script, Shape, forked
from .tell import Tell
from .ways import Texts, Writer, timed

_SLACK = 4000


@dataclass(frozen=True)
class Count:
    """One answer: forwards that held a row of it, against its tokens.

    Attributes:
        planned: forwards that its structure needs (:func:`~.forwards.in_parallel`).
    """

    name: str
    batch: int
    steps: int
    critical_path: int
    tokens: int
    forks: int
    planned: int

    @property
    def per_critical_path(self) -> float:
        return self.steps / self.critical_path

    @property
    def per_token(self) -> float:
        return self.steps / self.tokens


def suite(
    author: Author,
    *,
    paths: Sequence[int],
    lengths: Sequence[int],
    traces: Sequence[Shape] = (),
    seed: int = 0,
) -> list[Script]:
    """Texts of one block of every number and length of paths, and one for each trace.

    A goal with one outline does not fork: its text is decoded token by token.
    """
    rng = random.Random(seed)
    found = []
    for count in paths:
        for length in lengths:
            shape = forked(count, length, around=40)
            name = f"{count} paths of {length}"
            found.append(author.write(shape, rng.randrange(1 << 30), name=name))
    for number, shape in enumerate(traces):
        found.append(author.write(shape, rng.randrange(1 << 30), name=f"trace {number + 1}"))
    return found


def measure(server: Server, scripts: Sequence[Script], path: Path, batch: int) -> list[Count]:
    """Have a server with the plugin write every script, ``batch`` at once.

    Args:
        path: a file the server can read, to put the scripts in.

    Raises:
        BenchError: an answer is not its script.
    """
    texts = Texts(scripts, path)
    write_scripts(scripts, path)
    found = []
    for start in range(0, len(scripts), batch):
        indices = range(start, min(start + batch, len(scripts)))
        metas = timed(server, texts, indices, Writer.whole).metas
        for index, meta in zip(indices, metas, strict=True):
            script = scripts[index]
            found.append(
                Count(
                    name=script.name,
                    batch=batch,
                    steps=meta["multiverse_forward_steps"],
                    critical_path=meta["multiverse_critical_path_tokens"],
                    tokens=meta["completion_tokens"],
                    forks=meta["multiverse_forks"],
                    planned=len(in_parallel(script)),
                )
            )
    return found


def summary(counts: Sequence[Count]) -> dict[str, Any]:
    """Mean and greatest ratio over ``counts``."""
    ratios = [one.per_critical_path for one in counts]
    return {
        "answers": len(counts),
        "forks": sum(one.forks for one in counts),
        "mean_steps_per_critical_path": statistics.fmean(ratios),
        "max_steps_per_critical_path": max(ratios),
        "mean_steps_per_token": statistics.fmean(one.per_token for one in counts),
        "mean_steps_over_planned": statistics.fmean(one.steps - one.planned for one in counts),
    }


def run(
    scripts: Sequence[Script], batches: Sequence[int], model: Path, tell: Tell, *, way: str
) -> dict[str, Any]:
    """Count on a server of ``model``, and return what ``--json`` prints.

    Args:
        way: ``plugin`` or ``multiverse``, which attention backend counts.
    """
    largest = sorted((len(script.ids) for script in scripts), reverse=True)
    tokens = int(1.2 * sum(largest[: max(batches)])) + _SLACK
    counts: list[Count] = []
    with (
        tempfile.TemporaryDirectory(prefix="multiverse-bench-") as folder,
        serving(way, model, tokens, tell) as server,
    ):
        for batch in batches:
            tell(f"{len(scripts)} texts, {batch} at once …")
            counts += measure(server, scripts, Path(folder) / f"steps-{batch}.json", batch)
    return {
        **summary(counts),
        "backend": way,
        "batches": {
            str(batch): summary([one for one in counts if one.batch == batch]) for batch in batches
        },
        "texts": [
            {
                "name": one.name,
                "batch": one.batch,
                "steps": one.steps,
                "critical_path_tokens": one.critical_path,
                "tokens": one.tokens,
                "forks": one.forks,
                "steps_per_critical_path": round(one.per_critical_path, 4),
            }
            for one in counts
        ],
    }
