"""Results of run.sh as Markdown tables.

python benchmarks/gpu/tables.py [FOLDER]      # benchmarks/results/h100, where none is named
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results" / "h100"

Result = dict[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def numerics(result: Result) -> Iterator[str]:
    """Largest difference over the cases of each check, and the largest mean difference."""
    rows = []
    for check in ("extend", "cascade", "graph", "flex"):
        cases = result[check].values()
        for what in next(iter(cases)):
            found = [case[what] for case in cases]
            worst, mean = (max(one[name] for one in found) for name in ("max", "mean"))
            rows.append([check, what, str(len(found)), f"{worst:.4f}", f"{mean:.1e}"])
    return table(["check", "of", "cases", "largest difference", "mean, the worst case's"], rows)


def extend(result: Result) -> Iterator[str]:
    rows = [
        [
            one["structure"],
            str(one["runs"]),
            *(f"{one[name]['ms']:.2f}" for name in ("causal", "segments", "custom_mask")),
            f"{one['segments / causal']:.2f}",
            f"{one['custom_mask / causal']:.2f}",
            f"{one['segments']['plan_ms']:.2f}",
        ]
        for one in result["extend"]
    ]
    head = ["text", "runs", "causal, ms", "runs, ms", "mask, ms"]
    return table([*head, "runs / causal", "mask / causal", "plan of runs, ms"], rows)


def decode(result: Result) -> Iterator[str]:
    rows = [
        [
            *(f"{one[name]:,}" for name in ("prefix", "paths", "groups", "tokens_spared")),
            *(f"{one[way][ms]:.3f}" for way in ("plain", "cascade") for ms in ("graph_ms", "ms")),
            f"{one['plain, graph / cascade']:.2f}",
            f"{one['plain, graph / cascade, graph']:.2f}",
            "yes" if one["rule"] else "no",
        ]
        for one in sorted(result["decode"], key=lambda one: one["tokens_spared"])
    ]
    head = ["prefix", "paths", "groups", "tokens spared", "plain, graph, ms", "plain, ms"]
    head += ["cascade, graph, ms", "cascade, ms", "plain, graph / cascade", "both as graphs"]
    return table([*head, "taken"], rows)


def flex(result: Result) -> Iterator[str]:
    ways = ("multiverse", "causal", "sdpa")
    rows = [
        [
            one["structure"],
            *(f"{one[way]['forward']['ms']:.2f}, {one[way]['backward']['ms']:.2f}" for way in ways),
            *(
                ", ".join(f"{one[f'{part}: multiverse / {base}']:.2f}" for part in PARTS)
                for base in ("causal", "sdpa")
            ),
        ]
        for one in result["flex"]
    ]
    head = ["text", "block mask, ms", "FlexAttention, causal, ms", "SDPA, causal, ms"]
    return table([*head, "÷ FlexAttention, causal", "÷ SDPA, causal"], rows)


PARTS = ("forward", "backward")


def model(result: Result) -> Iterator[str]:
    checked = result["gradients"]
    rows = [
        [name, f"{one['mean gradient']:.4f}", f"{one['worst gradient']:.4f}", f"{one['loss']:.1e}"]
        for name, one in checked.items()
        if isinstance(one, dict)
    ]
    yield from table(["bfloat16", "gradients, mean", "gradients, worst", "loss"], rows)
    steps = [
        [one["structure"], way, f"{one[way]['ms']:.0f}", f"{one[way]['peak_mib']:,.0f}"]
        for one in result["steps"]
        for way in (
            "sdpa, causal",
            "flex, causal",
            "flex, by order",
            "segments, by order",
            "sdpa, by order",
        )
        if way in one
    ]
    yield from table(["text", "attention", "a step, ms", "peak memory, MiB"], steps)


TABLES: dict[str, Callable[[Result], Iterator[str]]] = {
    "numerics": numerics,
    "speed-extend": extend,
    "speed-decode": decode,
    "speed-flex": flex,
    "model": model,
}


def tables(folder: Path) -> dict[str, str]:
    """Markdown by the name of the result, of those there are."""
    return {
        name: "\n".join(write(json.loads(file.read_text(encoding="utf-8")))).rstrip()
        for name, write in TABLES.items()
        if (file := folder / f"{name}.json").exists()
    }


def main() -> None:
    for name, text in tables(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS).items():
        print(f"## {name}\n\n{text}\n")


if __name__ == "__main__":
    main()
