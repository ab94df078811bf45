"""The corpus: accepted items as parquet, in the published columns and with what made them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein

from sglang_multiverse.flatten import flatten_text
from sglang_multiverse.lexer import encode, lex
from sglang_multiverse.parallelism import Parallelism, parallelism
from sglang_multiverse.structure import parse
from sglang_multiverse.text import Document, parse_text, serialise

from ..store.store import Store
from .mixture import Example, mixture
from .summary import Summary, summarise

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


def thought_of(text: str) -> str:
    """The thought of a trace as text, blocks included, without ``<Think>`` around it."""
    return serialise(Document(answer=parse_text(text).thought or []))


def rows(store: Store, summary: Summary, measure: Measure) -> Iterator[dict[str, Any]]:
    """One row per accepted item, in the order of the source."""
    names = summary.about["source"]["columns"]
    roles = {
        names["question"]: "question",
        names["chain"]: "deepseek_thinking_trajectory",
        names["attempt"]: "deepseek_attempt",
        names["answer"]: "solution",
    }
    paid = {call["key"]: call for call in store.calls() if call["state"] == "done"}
    for item in summary.items:
        outcome = summary.outcomes.get(item)
        if outcome is None or outcome.status != "accepted" or outcome.result is None:
            continue
        source = store.columns(item)
        published = {roles.get(name, name): value for name, value in source.items()}
        text = outcome.result["text"]
        chain = published["deepseek_thinking_trajectory"]
        sequential = flatten_text(thought_of(text))
        measured = measure(text)
        calls = [paid[key] for key in outcome.keys]
        yield {
            **{name: _text(published.get(name)) for name in SOURCE_COLUMNS},
            "deepseek_thinking_trajectory_parallel": _thinking(text),
            "deepseek_thinking_trajectory_sequential": sequential,
            "distance": Levenshtein.normalized_distance(_plain(chain), _plain(sequential)),
            "id": item,
            "run": summary.run,
            "text": text,
            "text_sequential": flatten_text(text),
            "outline": outcome.result["outline"],
            "gates": [f"{note['gate']}/{note['code']}" for note in outcome.result["notes"]],
            "model": summary.about["recipe"]["model"],
            "calls": len(calls),
            "repairs": sum(call["attempt"] > 1 for call in calls),
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
        }


def _thinking(text: str) -> str:
    """``<Think>`` to ``</Think>``."""
    document = parse_text(text)
    return serialise(Document(thought=document.thought)).rstrip("\n")


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


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
) -> list[Path]:
    """Write corpus, training mixture, card and report to ``folder``; the paths written.

    Raises:
        ExportError: no item is accepted, or ``folder`` holds something.
        StoreError: the store has no such run.
    """
    from .card import write_card
    from .report import write_report

    if folder.exists() and any(folder.iterdir()):
        raise ExportError(f"{folder} is not empty; export to a new folder")
    measure, counted = measure_by(tokenizer)
    summary = summarise(store, run)
    corpus = list(rows(store, summary, measure))
    if not corpus:
        raise ExportError(
            f"run {summary.run} has no accepted item yet; `multiverse curate status` says why"
        )
    name = "train-00000-of-00001.parquet"
    written = [_write(corpus, folder / "data" / name)]
    if curriculum:
        written.append(_write(list(mixture(examples(corpus), seed=seed)), folder / "mixed" / name))
    written += write_report(store, folder / "report", run)
    written += write_card(summary, corpus, folder, counted, mixed=curriculum, plots=plots)
    return written


def examples(corpus: list[dict[str, Any]]) -> list[Example]:
    """Exported rows as the mixture takes them."""
    return [
        Example(row["id"], row["question"].strip(), row["text"], row["text_sequential"])
        for row in corpus
    ]


def _write(rows: list[dict[str, Any]], path: Path) -> Path:
    from datasets import Dataset, disable_progress_bars, enable_progress_bars

    path.parent.mkdir(parents=True, exist_ok=True)
    disable_progress_bars()
    try:
        Dataset.from_list(rows).to_parquet(str(path))
    finally:
        enable_progress_bars()
    return path
