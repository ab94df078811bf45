"""Which gate catches which corruption.

    python benchmarks/gates.py [--traces FILE.jsonl] [--limit N] [--json]

Corrupts every well-formed text, one corruption at a time, and prints for each kind how often a
code it must be caught by was found, and which other codes were found beside; then for each code
how often it was right. Without `--traces` the texts are synthetic. The source of a text is its own
flattened form, so coverage and content start from distance 0. Then what the gates on meaning say of
changed paths (``benchmarks/meaning.py``, which has more of it).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import meaning
from sglang_multiverse.data_pipeline.finding import Finding
from sglang_multiverse.data_pipeline.gates import CURATION, check_document
from sglang_multiverse.data_pipeline.gates.text.located import locate
from sglang_multiverse.flatten import flatten_text
from tests.data_pipeline.mutations import MUTATIONS, Mutation, synthetic

OPTIONS = replace(CURATION, strict_coverage=True)


@dataclass
class Caught:
    """What became of one kind of corruption."""

    mutation: Mutation
    texts: int = 0
    right: int = 0
    rejected: int = 0
    others: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)


@dataclass
class Table:
    """All kinds, and for each code the corruptions it was raised for: rightly, and in all."""

    kinds: list[Caught]
    raised: dict[str, list[int]]


def findings_of(text: str, source: str) -> list[Finding]:
    return check_document(text, source=source, options=OPTIONS)


def measure(texts: list[str], seed: int = 0) -> Table:
    """Corrupt every text in every way. Codes the intact text has already do not count."""
    kinds = [Caught(mutation) for mutation in MUTATIONS]
    raised: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for index, text in enumerate(texts):
        source, located = flatten_text(text), locate(text)
        before = Counter(finding.code for finding in findings_of(text, source))
        for caught in kinds:
            rng = random.Random(f"{seed} {index} {caught.mutation.kind}")
            corrupted = caught.mutation.corrupt(located, rng)
            if corrupted is None:
                continue
            after = Counter(finding.code for finding in findings_of(corrupted, source))
            count(caught, set(after - before), raised)
    return Table(kinds, dict(raised))


def count(caught: Caught, new: set[str], raised: dict[str, list[int]]) -> None:
    mutation = caught.mutation
    caught.texts += 1
    caught.right += bool(new & mutation.codes)
    caught.rejected += bool(new)
    for code in new:
        expected = code in mutation.codes or code in mutation.also
        raised[code][0] += expected
        raised[code][1] += 1
        if not expected:
            caught.unexpected[code] += 1
        elif code not in mutation.codes:
            caught.others[code] += 1


def rows(table: Table) -> list[dict[str, Any]]:
    return [
        {
            "gate": caught.mutation.gate,
            "corruption": caught.mutation.kind,
            "codes": sorted(caught.mutation.codes),
            "texts": caught.texts,
            "right_code": caught.right,
            "any_code": caught.rejected,
            "also": dict(caught.others.most_common()),
            "unexpected": dict(caught.unexpected.most_common()),
        }
        for caught in table.kinds
    ]


def show(table: Table) -> None:
    print("| gate | corruption | code | texts | right code | any code | unexpected codes |")
    print("|---|---|---|---|---|---|---|")
    for row in rows(table):
        unexpected = ", ".join(f"{code} {n}" for code, n in row["unexpected"].items()) or "–"
        print(
            f"| {row['gate']} | {row['corruption']} | {', '.join(row['codes'])} | {row['texts']} "
            f"| {row['right_code']} | {row['any_code']} | {unexpected} |"
        )
    texts = sum(caught.texts for caught in table.kinds)
    right = sum(caught.right for caught in table.kinds)
    print(f"\n{texts} corrupted texts, {right} ({right / texts:.1%}) caught by the right code.\n")
    print("| code | raised | expected | precision |")
    print("|---|---|---|---|")
    for code, (good, total) in sorted(table.raised.items()):
        print(f"| {code} | {total} | {good} | {good / total:.1%} |")


def paths(texts: list[str]) -> meaning.Counts:
    """What the gates on meaning say of paths changed in other ways."""
    return meaning.changes([locate(text) for text in texts], most=300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, help="JSON lines with the texts in `output`")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.traces is None:
        texts = [synthetic(seed) for seed in range(args.limit or 20)]
    else:
        lines = args.traces.read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["output"] for line in lines][: args.limit]
    table = measure(texts)
    if args.json:
        found = {"corruptions": rows(table), "codes": table.raised, "paths": paths(texts)}
        print(json.dumps(found))
    else:
        show(table)
        print("\nPaths, changed, against what they were (faults, doubts, paths):\n")
        meaning.show(paths(texts))


if __name__ == "__main__":
    main()
