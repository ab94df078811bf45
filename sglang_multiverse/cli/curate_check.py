"""``multiverse curate check``: every gate that needs no LLM, over any corpus."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..corpus import TEXT, BadRow
from .corpus import ANSWER_FIELDS, EXPORTED_ANSWER, SOURCE_FIELDS, Fields, Item, Told, read_corpus
from .ending import end
from .refusal import fail

if TYPE_CHECKING:
    from ..data_pipeline.finding import Finding
    from ..data_pipeline.gates import GateOptions

CountTokens = Callable[[str], int]


class FailOn(StrEnum):
    """What makes the exit code 1."""

    nothing = "nothing"
    unreadable = "unreadable"
    rejected = "rejected"


def command(
    file: Annotated[
        str,
        typer.Argument(
            help="JSON lines, JSON or parquet, by the suffix; `-` is standard input, JSON lines."
        ),
    ],
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object a text: id, accepted, codes, gates, findings."
        ),
    ] = False,
    text: Annotated[
        str | None, typer.Option(help=f"Field of the text [default: first of {TEXT}].")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help=f"Field of the sequential source [default: {SOURCE_FIELDS[0]}, if any]; what "
            "compares with it runs, each path against its own sentences, too."
        ),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            help=f"Field of the reference answer [default: first of {ANSWER_FIELDS}; of an export "
            f"{EXPORTED_ANSWER[0]}, as in its run]."
        ),
    ] = None,
    model_output: Annotated[
        bool,
        typer.Option(
            help="Judge what a model wrote, not training data: cut texts, texts without a block, "
            "a free cue line, depth to 4 and, without --source, any wording of paths are accepted."
        ),
    ] = False,
    allow_no_block: Annotated[
        bool, typer.Option("--allow-no-block", help="Accept texts without a block.")
    ] = False,
    strict_coverage: Annotated[
        bool, typer.Option(help="Every sentence of the source must stand in the text unchanged.")
    ] = False,
    max_depth: Annotated[int | None, typer.Option(min=1, help="Deepest nesting of blocks.")] = None,
    max_branches: Annotated[int | None, typer.Option(min=2, help="Most paths a block.")] = None,
    max_distance: Annotated[
        float | None, typer.Option(min=0, max=1, help="Largest edit distance to the source.")
    ] = None,
    benefit: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            help="Also reject texts with a block that does not save more than TOKENS on the "
            "critical path.",
        ),
    ] = None,
    fail_on: Annotated[
        FailOn,
        typer.Option(help="Exit with 1 where a text is rejected, or only where one is unreadable."),
    ] = FailOn.nothing,
    max_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the rows that --fail-on puts up with."),
    ] = 0,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with a `tokenizer.json` to count tokens by for --benefit; without it "
            "pieces of text (words, digits, signs) are counted.",
        ),
    ] = None,
) -> None:
    """Check a corpus of parallel texts without an LLM.

    A text is accepted when no gate finds anything; `answer-unchecked` is a note, which rejects
    nothing. Lines that hold no text are reported with their number and remedy and count as
    rejected; the rest is checked.

    Exit code 0: checked. 1: what --fail-on names was found, in more than --max-share of the rows.
    2: the file cannot be read, or holds no text at all.
    """
    from ..data_pipeline.gates import CURATION, MODEL_OUTPUT
    from ..data_pipeline.gates.meaning.equivalence import EquivalenceError
    from ..data_pipeline.recipe import counter

    options = MODEL_OUTPUT if model_output else CURATION
    options = replace(options, strict_coverage=strict_coverage)
    if allow_no_block:
        options = replace(options, require_block=False)
    if max_depth is not None:
        options = replace(options, max_depth=max_depth)
    if max_branches is not None:
        options = replace(options, max_branches=max_branches)
    if max_distance is not None:
        options = replace(options, max_distance=max_distance)
    report, told = Report(), Told()
    try:
        count = counter(tokenizer)[0] if benefit is not None else None
        for item in read_corpus(file, Fields(text, source, answer)):
            if isinstance(item, BadRow):
                told(item)
                row = report.bad_line(item)
            else:
                findings = _check(item, options, count, benefit or 0)
                if item.source is not None and (source is not None or not model_output):
                    findings += _check_paths(item)
                row = report.add(item, findings)
            if as_json:
                typer.echo(json.dumps(row))
    except (OSError, ValueError, EquivalenceError) as error:
        told.end()
        fail(error)
    told.end()
    if report.texts and not as_json:
        _show(report)
    rejected = report.texts - report.accepted + report.bad
    failing = {FailOn.rejected: rejected, FailOn.unreadable: report.bad}
    allowed = max_share * (report.texts + report.bad) + 1e-9  # 0.29 of 100 are 28.999…
    end(file, report.texts, report.bad, failed=failing.get(fail_on, 0) > allowed)


@dataclass
class Report:
    """What became of the texts: counts by code, with one example each."""

    texts: int = 0
    accepted: int = 0
    bad: int = 0
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, item: Item, findings: list[Finding]) -> dict[str, Any]:
        """Count the findings of a text; gives its row."""
        from ..data_pipeline.gates import NOTES

        accepted = all(finding.code in NOTES for finding in findings)
        self.texts += 1
        self.accepted += accepted
        keys = [(finding.gate, finding.code) for finding in findings]
        self.findings.update(keys)
        self.codes.update(set(keys))
        for key in keys:
            self.examples.setdefault(key, item.id)
        return {
            "id": item.id,
            "accepted": accepted,
            "codes": list(dict.fromkeys(finding.code for finding in findings)),
            "gates": {finding.code: finding.gate for finding in findings},
            "findings": [finding.row() for finding in findings],
        }

    def bad_line(self, line: BadRow) -> dict[str, Any]:
        """Count a line that holds no text; gives its row."""
        self.bad += 1
        return {
            "id": f"line {line.row}",
            "accepted": False,
            "codes": ["bad-line"],
            "gates": {},
            "findings": [],
            "error": str(line),
        }


def _check(
    item: Item, options: GateOptions, count: CountTokens | None, margin: int
) -> list[Finding]:
    from ..data_pipeline.gates import check_document, flatten_costly_blocks
    from ..text import parse_text

    findings: list[Finding] = list(
        check_document(item.text, source=item.source, answer=item.answer, options=options)
    )
    if count is not None:
        findings += flatten_costly_blocks(parse_text(item.text), count, margin)[1]
    return findings


def _check_paths(item: Item) -> list[Finding]:
    """Nothing where the grammar leaves open what belongs to which path."""
    from ..data_pipeline.gates import MODEL_OUTPUT, check_paths

    assert item.source is not None
    findings: list[Finding] = check_paths(item.text, item.source, MODEL_OUTPUT)
    return findings


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 120)
    if report.codes:
        table = Table(box=None, header_style="bold", padding=(0, 1))
        table.add_column("gate")
        table.add_column("code")
        table.add_column("texts", justify="right")
        table.add_column("findings", justify="right")
        table.add_column("for example", overflow="fold")
        for (gate, code), texts in report.codes.most_common():
            key = (gate, code)
            count = report.findings[key]
            example = Text(report.examples[key])
            table.add_row(gate, code, f"{texts:,}", f"{count:,}", example)
        console.print(table)
    total = report.texts + report.bad
    console.print(
        f"\n[bold]{total:,}[/] text{'s' * (total != 1)}: [green]{report.accepted:,} accepted[/], "
        f"{report.texts - report.accepted:,} rejected, {report.bad:,} unreadable"
    )
