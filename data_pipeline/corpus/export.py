"""The corpus: accepted items as parquet, in the published columns and with what made them.

Rows are read from the store in pages, made one by one and written in shards, so that an export of
any size takes the same memory.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapidfuzz.distance import Levenshtein

from sglang_multiverse.flatten import flatten
from sglang_multiverse.lexer import encode, lex
from sglang_multiverse.parallelism import Parallelism, parallelism
from sglang_multiverse.structure import parse
from sglang_multiverse.text import Document, encodable, parse_text, serialise

from ..aside import Aside
from ..sampling.drawing import STAGE as DRAWN
from ..store.store import Outcome, Store
from .measures import Measures
from .mixture import Example, as_drawn, mixture
from .shards import write_shards
from .summary import Summary, summarise

if TYPE_CHECKING:
    import pyarrow as pa

#: The columns of s1K-1.1 that the published corpus keeps.
SOURCE_COLUMNS = (
    "solution",
    "question",
    "cot_type",
    "source_type",
    "metadata",
    "gemini_thinking_trajectory",
    "gemini_attempt",
    "deepseek_thinking_trajectory",
    "deepseek_attempt",
    "gemini_grade",
    "gemini_grade_reason",
    "deepseek_grade",
    "deepseek_grade_reason",
)

#: What is said of a row in numbers: whole ones, and others.
COUNTS = (
    *("calls", "repairs", "input_tokens", "output_tokens", "tokens", "critical_path_tokens"),
    *("blocks", "paths", "depth"),
)
RATIOS = ("distance", "cost", "parallelism", "net_parallelism")
#: Items read from the store at a time.
PAGE = 50

Measure = Callable[[str], Parallelism]


class ExportError(RuntimeError):
    """There is nothing to export, or no place for it."""


def measure_by(tokenizer: Path | None) -> tuple[Measure, str]:
    """How parallel a text is, in tokens of a folder's tokenizer or, without one, in pieces."""
    if tokenizer is None:

        def by_pieces(text: str) -> Parallelism:
            lexed = lex(text)
            return parallelism(parse(lexed.ids, lexed.dialect))

        return by_pieces, "pieces"
    from sglang_multiverse.cli.tokenizer import TokenizerFile
    from sglang_multiverse.dialect import Dialect

    try:
        vocabulary = TokenizerFile(tokenizer)
        dialect = Dialect.from_tokenizer(vocabulary)
    except (OSError, ValueError) as error:
        raise ExportError(str(error)) from error

    def by_tokens(text: str) -> Parallelism:
        return parallelism(parse(encode(text, vocabulary, dialect), dialect))

    return by_tokens, tokenizer.name


def corpus_schema() -> pa.Schema:
    """Of the files in ``data/``, the same for every export."""
    import pyarrow as pa

    text, count, ratio = pa.string(), pa.int64(), pa.float64()
    return pa.schema(
        [
            *((name, text) for name in SOURCE_COLUMNS),
            ("deepseek_thinking_trajectory_parallel", text),
            ("deepseek_thinking_trajectory_sequential", text),
            ("distance", ratio),
            *((name, text) for name in ("id", "run", "text", "text_sequential", "outline")),
            ("gates", pa.list_(text)),
            ("model", text),
            *((name, count) for name in COUNTS[:4]),
            ("cost", ratio),
            *((name, count) for name in COUNTS[4:6]),
            *((name, ratio) for name in RATIOS[2:]),
            *((name, count) for name in COUNTS[6:]),
            ("source_columns", text),
        ]
    )


def mixed_schema() -> pa.Schema:
    """Of the files in ``mixed/``, the same for every export."""
    import pyarrow as pa

    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    return pa.schema(
        [
            ("prompt", turns),
            ("completion", turns),
            ("id", pa.string()),
            ("stage", pa.int64()),
            ("parallel", pa.bool_()),
        ]
    )


def rows(store: Store, summary: Summary, measure: Measure) -> Iterator[dict[str, Any]]:
    """One row per accepted item, in the order of the source, read in pages."""
    for at in range(0, len(summary.items), PAGE):
        page = summary.items[at : at + PAGE]
        outcomes = store.outcomes_of(summary.run, page)
        accepted = [
            outcomes[item]
            for item in page
            if item in outcomes and outcomes[item].status == "accepted"
        ]
        columns = store.columns_of([outcome.item for outcome in accepted])
        calls = store.accounts([key for outcome in accepted for key in outcome.keys])
        for outcome in accepted:
            paid = [calls[key] for key in outcome.keys]
            for one in _texts(outcome):
                yield _row(one, columns[outcome.item], paid, summary, measure)


def _texts(outcome: Outcome) -> Iterator[Outcome]:
    """``outcome`` for each of its texts, of which a sampled one may have several."""
    result = outcome.result or {}
    texts = result.get("texts") or [result["text"]]
    for number, text in enumerate(texts):
        item = outcome.item if number == 0 else f"{outcome.item}-{number + 1}"
        yield replace(outcome, item=item, result={**result, "text": text})


def _row(
    outcome: Outcome,
    source: dict[str, Any],
    calls: Sequence[Any],
    summary: Summary,
    measure: Measure,
) -> dict[str, Any]:
    names = summary.about["source"]["columns"]
    roles = {
        names["question"]: "question",
        names["chain"]: "deepseek_thinking_trajectory",
        names["attempt"]: "deepseek_attempt",
        names["answer"]: "solution",
    }
    taken = {roles[name] for name in source if name in roles}
    others = {
        name: value
        for name, value in source.items()
        if name not in roles and (name in taken or name not in SOURCE_COLUMNS)
    }
    published = {
        roles.get(name, name): _text(value) for name, value in source.items() if name not in others
    }
    result = outcome.result or {}
    text = encodable(result["text"])
    document = parse_text(text)
    thought = Document(answer=document.thought or [])
    sequential = serialise(flatten(thought))
    chain = published.get("deepseek_thinking_trajectory") or ""
    measured = measure(text)
    return {
        **{name: published.get(name) for name in SOURCE_COLUMNS},
        "deepseek_thinking_trajectory_parallel": serialise(
            Document(thought=document.thought)
        ).rstrip("\n"),
        "deepseek_thinking_trajectory_sequential": sequential,
        "distance": (
            Levenshtein.normalized_distance(_plain(chain), _plain(sequential)) if chain else None
        ),
        "id": outcome.item,
        "run": summary.run,
        "text": text,
        "text_sequential": serialise(flatten(document)) if document.blocks else text,
        "outline": encodable(result["outline"]),
        "gates": [f"{note['gate']}/{note['code']}" for note in result["notes"]],
        "model": summary.about["recipe"]["model"],
        "calls": len(calls),
        "repairs": sum(call["attempt"] > 1 and call["stage"] != DRAWN for call in calls),
        "input_tokens": sum(call["input_tokens"] for call in calls),
        "output_tokens": sum(call["output_tokens"] for call in calls),
        "cost": sum(call["cost"] for call in calls),
        "tokens": measured.tokens,
        "critical_path_tokens": measured.critical_path_tokens,
        "parallelism": measured.degree,
        "net_parallelism": measured.net,
        "blocks": measured.blocks,
        "paths": measured.paths,
        "depth": measured.depth,
        "source_columns": _text(others) if others else None,
    }


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return encodable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _plain(text: str) -> str:
    return " ".join(text.split())


def export_dataset(
    store: Store,
    folder: Path,
    run: str | None = None,
    *,
    curriculum: bool = True,
    seed: int = 0,
    tokenizer: Path | None = None,
    plots: bool = True,
    without: Collection[str] = (),
    left_out: Callable[[str], None] = lambda item: None,
) -> list[Path]:
    """Write corpus, training mixture, card and report to ``folder``; the paths written.

    They are made in a hidden folder in it and moved when all are there.

    Args:
        without: ids of rows to leave out, since reviewers doubt them.
        left_out: told of each that is left out.

    Raises:
        ExportError: no item is accepted, none is left, or ``folder`` holds something.
        StoreError: the store has no such run.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ExportError(f"{folder} is not empty; export to a new folder")
    measure, counted = measure_by(tokenizer)
    summary = summarise(store, run)
    if not summary.by_status["accepted"]:
        raise ExportError(
            f"run {summary.run} has no accepted item yet; `multiverse curate status` says why"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as name:
        made = Path(name)
        written = _write(
            store,
            summary,
            made,
            measure,
            counted,
            curriculum=curriculum,
            seed=seed,
            plots=plots,
            without=without,
            left_out=left_out,
        )
        for one in made.iterdir():
            one.rename(folder / one.name)
    return [folder / path.relative_to(made) for path in written]


def _write(
    store: Store,
    summary: Summary,
    folder: Path,
    measure: Measure,
    counted: str,
    *,
    curriculum: bool,
    seed: int,
    plots: bool,
    without: Collection[str],
    left_out: Callable[[str], None],
) -> list[Path]:
    from .card import write_card
    from .report import write_report

    measures = Measures([*COUNTS, *RATIOS])
    with Aside[Example](folder=folder, in_memory=1) as spool:
        gone: set[str] = set()

        def seen() -> Iterator[dict[str, Any]]:
            for row in rows(store, summary, measure):
                if row["id"] in without:
                    gone.add(row["id"])
                    left_out(row["id"])
                    continue
                measures.put(row)
                if curriculum:
                    spool.append(example(row))
                yield row

        written = write_shards(seen(), folder / "data", corpus_schema())
        if not written:
            raise ExportError("reviewers doubt every accepted item; nothing is left to export")
        if curriculum:
            draws = summary.about["recipe"].get("draws")
            mixed = as_drawn(spool, draws["mode"]) if draws else mixture(spool, seed=seed)
            written += write_shards(mixed, folder / "mixed", mixed_schema())
    written += write_report(store, folder / "report", summary.run)
    written += write_card(
        summary,
        measures,
        folder,
        counted,
        mixed=curriculum,
        plots=plots,
        reviewed=bool(gone),
    )
    return written


def example(row: dict[str, Any]) -> Example:
    """An exported row as the mixture takes it."""
    return Example(row["id"], row["question"].strip(), row["text"], row["text_sequential"])
