"""What the gates on meaning catch, on cases by someone who had not seen them.

    python benchmarks/meaning.py [--seen | --rewrites FILE …] [--missed] [--json]
    python benchmarks/meaning.py --judged
    python benchmarks/meaning.py --traces ../shared/traces/wellformed.jsonl [--most 300]

``tests/data_pipeline/labelled`` holds passages with honest and dishonest rewritings, and parallel
blocks that are independent or not; its PROTOCOL.md says how they came about. The gates were made
with ``blocks`` and all rewritings but ``rewrites-unseen`` in view. ``--traces`` changes paths and
conclusions of real outputs in ways by another author who had not seen the gates, and says in how
many outermost blocks a conclusion or an outline is doubtful. Doubts are left to a judge, faults
are not.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sglang_multiverse.data_pipeline.gates import CURATION, DOUBTFUL, check_borrowed, check_ends
from sglang_multiverse.data_pipeline.gates.meaning.faithful import (
    check_concluded,
    check_faithful,
    check_outlined,
)
from sglang_multiverse.data_pipeline.gates.meaning.independence import check_independence
from sglang_multiverse.data_pipeline.gates.text.located import Located, locate
from sglang_multiverse.data_pipeline.stages.judging import is_fine
from tests.data_pipeline.rewordings import mutants

#: Files of rewritings, by age; the gates were made without the last.
REWRITES = (
    *("rewrites", "rewrites-holdout", "rewrites-third", "rewrites-fourth", "rewrites-fifth"),
    "rewrites-unseen",
)
_TAG = re.compile(r"</?[A-Z][a-z]+>")
LABELLED = Path(__file__).resolve().parent.parent / "tests" / "data_pipeline" / "labelled"
#: Kind → cases that are found fault with, those that are only doubtful, and all.
Counts = dict[str, tuple[int, int, int]]


def cases(name: str) -> list[dict[str, Any]]:
    """The cases of a file."""
    text = (LABELLED / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


class Tally:
    """Findings by kind of case: faults, doubts, all."""

    def __init__(self) -> None:
        self.counts: Counts = {}

    def add(self, kind: str, *, fault: bool, doubt: bool = False) -> None:
        faults, doubts, whole = self.counts.get(kind, (0, 0, 0))
        self.counts[kind] = faults + fault, doubts + (doubt and not fault), whole + 1

    def add_codes(self, kind: str, findings: list[Any]) -> None:
        """Count a case as a fault where one of its findings is, as a doubt where all are."""
        codes = {finding.code for finding in findings}
        self.add(kind, fault=bool(codes - DOUBTFUL), doubt=bool(codes))

    def sorted(self) -> Counts:
        return dict(sorted(self.counts.items()))


def rewritings(*names: str) -> tuple[Counts, list[str]]:
    """Of each kind of rewriting, conclusion and outline how many are found fault with."""
    tally = Tally()
    wrong = []

    def count(kind: str, case: str, findings: list[Any], ends: bool = False) -> None:
        if ends:
            tally.add(kind, fault=False, doubt=bool(findings))
        else:
            tally.add_codes(kind, findings)
        if bool(findings) != kind.startswith(("dishonest", "false", "nonsense")):
            wrong.append(f"{case} {kind}: {'; '.join(f.message for f in findings) or 'passes'}")

    for row in (row for name in names for row in cases(name)):
        source = row["source"]
        for one in row["honest"]:
            count("honest", row["id"], check_faithful(source, one["text"]))
        for kind, text in row["dishonest"].items():
            count(f"dishonest: {kind}", row["id"], check_faithful(source, text))
        for kind in ("conclusion", "false_conclusion"):
            count(kind.replace("_", " "), row["id"], check_concluded(source, row[kind]), ends=True)
        for kind in ("outline", "nonsense_outline"):
            count(kind.replace("_", " "), row["id"], check_outlined(row[kind], source), ends=True)
    return tally.counts, wrong


def blocks() -> tuple[Counts, list[str]]:
    """Of each kind of block how many are found dependent."""
    tally = Tally()
    wrong = []
    for row in cases("blocks"):
        located = locate(f"{row['trunk'].rstrip()}\n{row['block']}")
        findings = check_independence(located, CURATION) + check_borrowed(located, row["question"])
        kind = f"{'dependent' if row['dependent'] else 'independent'}: {row['kind']}"
        tally.add(kind, fault=bool(findings))
        if bool(findings) != row["dependent"]:
            wrong.append(
                f"{row['id']} {kind}: {'; '.join(f.message for f in findings) or 'passes'}"
            )
    return tally.sorted(), wrong


def judged() -> tuple[Counts, Counts]:
    """What the recorded judge faults: of blocks, and of doubts by the kind of their case."""
    dependent = {row["id"]: row["dependent"] for row in cases("blocks")}
    kinds = [
        ("dependent" if dependent[row["id"]] else "independent", row["verdicts"])
        for row in cases("verdicts-blocks")
    ]
    doubts = [
        (
            row["kind"].split("-")[0] if row["kind"].startswith("honest") else row["kind"],
            row["verdicts"],
        )
        for row in cases("verdicts-doubts")
    ]
    return _faulted(kinds), _faulted(doubts)


def _faulted(verdicts: list[tuple[str, list[str]]]) -> Counts:
    tally = Tally()
    for kind, said in verdicts:
        tally.add(kind, fault=any(not is_fine(one) for one in said))
    return tally.sorted()


def outputs(file: Path) -> list[Located]:
    """The texts of a JSONL file with a column ``output``."""
    return [locate(json.loads(line)["output"]) for line in file.read_text("utf-8").splitlines()]


def changes(texts: list[Located], most: int) -> Counts:
    """Of each kind of change to ``most`` real paths, one path at a time, how many are found fault
    with."""
    tally = Tally()
    paths = [text.at(path.inner) for text in texts for block in text.walk() for path in block.paths]
    paths = [path.strip() for path in paths if len(path) > 200 and "<" not in path]
    for path in paths[:: max(len(paths) // most, 1)][:most]:
        for kind, changed in mutants(path).items():
            tally.add_codes(kind, check_faithful(path, changed))
    return tally.sorted()


def ends(texts: list[Located]) -> tuple[int, int]:
    """Outermost blocks, and those with a doubtful conclusion or outline."""
    doubtful = [bool(check_ends(text, block, "")) for text in texts for block in text.blocks]
    return len(doubtful), sum(doubtful)


def changed_ends(texts: list[Located]) -> Counts:
    """Of conclusions and outlines as they are, changed, and of another block, how many are
    doubted; changed are those that are not doubted as they are."""
    tally = Tally()
    blocks = [(text, block) for text in texts for block in text.walk() if block.conclusion]
    for at, (text, block) in enumerate(blocks):
        there, far = blocks[(at + 37) % len(blocks)]
        said = [_TAG.sub("", text.at(path.inner)) for path in block.paths]
        outlines = [text.at(outline.inner) for outline in block.outlines]
        given = "\n".join([text.text[: block.span[0]], *outlines])
        assert block.conclusion and far.conclusion
        kinds = {"conclusion: as it is": text.at(block.conclusion.inner)}
        if not check_concluded(said, kinds["conclusion: as it is"], given):
            changed = mutants(kinds["conclusion: as it is"])
            for kind in ("last-number", "all-numbers", "negated"):
                if kind in changed:
                    kinds[f"conclusion: {kind}"] = changed[kind]
            kinds["conclusion: of another block"] = there.at(far.conclusion.inner)
        for kind, conclusion in kinds.items():
            found = check_concluded(said, conclusion, given)
            tally.add(kind, fault=False, doubt=bool(found))
        for own, outline in zip(said, outlines, strict=False):
            siblings = [other for other in said if other is not own]
            for kind, told in (
                ("outline: as it is", outline),
                ("outline: of another block", there.at(far.outlines[0].inner)),
            ):
                found = check_outlined(told, own, siblings)
                tally.add(kind, fault=False, doubt=bool(found))
    return tally.sorted()


def show(counts: Counts) -> None:
    print("| kind | at fault | doubtful | of |\n|---|---|---|---|")
    for kind, row in counts.items():
        print(f"| {kind} | {' | '.join(map(str, row))} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rewrites",
        nargs="+",
        choices=REWRITES,
        default=REWRITES[-1:],
    )
    parser.add_argument(
        "--seen",
        dest="rewrites",
        action="store_const",
        const=REWRITES[:-1],
        help="those that the gates were made with",
    )
    parser.add_argument("--traces", type=Path, metavar="FILE", help="JSONL with a column output")
    parser.add_argument("--judged", action="store_true", help="what the recorded judge said")
    parser.add_argument("--most", type=int, default=300, help="paths of --traces")
    parser.add_argument("--missed", action="store_true", help="list what is judged wrongly")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.judged:
        for counts in judged():
            show(counts)
        return
    if options.traces:
        texts = outputs(options.traces)
        show({**changes(texts, options.most), **changed_ends(texts)})
        blocks_, doubtful = ends(texts)
        print(f"{blocks_} outermost blocks, {doubtful} with a doubtful conclusion or outline")
        return
    parts = (rewritings(*options.rewrites), blocks())
    if options.json:
        print(json.dumps({kind: counts for part, _ in parts for kind, counts in part.items()}))
        return
    for counts, wrong in parts:
        show(counts)
        if options.missed:
            print(*wrong, "", sep="\n")
    dependent, independent = (
        [
            sum(pair)
            for pair in zip(*(v for k, v in parts[1][0].items() if k.startswith(head)), strict=True)
        ]
        for head in ("dependent", "independent")
    )
    print(
        f"dependence: precision {dependent[0] / max(dependent[0] + independent[0], 1):.0%}, "
        f"recall {dependent[0] / dependent[2]:.0%}"
    )


if __name__ == "__main__":
    main()
