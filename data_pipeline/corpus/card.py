"""The dataset card: what the corpus is, what made it, under which terms, and what is in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from .front import front
from .report import table
from .summary import Summary

#: Figures of the card: column, title, label of the axis.
FIGURES = (
    ("parallelism", "Degree of parallelism", "tokens ÷ critical path"),
    ("net_parallelism", "Net parallelism", "content tokens ÷ critical path"),
    ("blocks", "Blocks per trace", "blocks"),
    ("distance", "Distance to the source", "normalised edit distance"),
)

_SCHEMA = (
    (
        "solution … deepseek_grade_reason",
        "the columns of the source, under the names of s1K-1.1; those it does not have are null",
    ),
    (
        "deepseek_thinking_trajectory_parallel",
        "the thought with its blocks, `<Think>` to `</Think>`",
    ),
    (
        "deepseek_thinking_trajectory_sequential",
        "the same thought flattened: no tags, goals, conclusions",
    ),
    ("distance", "normalised edit distance between source chain and flattened thought"),
    ("id", "hash of question and chain, of a further answer to the question with its number"),
    ("run", "name of the curation run"),
    ("text", "the whole trace: thought and answer"),
    ("text_sequential", "its autoregressive twin"),
    ("outline", "the tree of steps the blocks come from"),
    ("gates", "findings accepted with the item, as gate/code"),
    ("model, calls, repairs, input_tokens, output_tokens, cost", "what it took to make the item"),
    (
        "tokens, critical_path_tokens, parallelism, net_parallelism",
        "how parallel `text` is; see the statistics",
    ),
    ("blocks, paths, depth", "its structure"),
    ("source_columns", "the other columns of the source, such as its own ids, as a JSON object"),
)


def write_card(
    summary: Summary,
    corpus: Sequence[dict[str, Any]],
    folder: Path,
    counted: str,
    *,
    mixed: bool,
    plots: bool = True,
    reviewed: bool = False,
) -> list[Path]:
    """Write ``README.md`` and its figures.

    Args:
        counted: names what counted the tokens.
        reviewed: texts that reviewers doubt were left out.
    """
    figures = _draw(corpus, folder / "figures") if plots else []
    head = front(summary, len(corpus), folder, mixed=mixed)
    lines = [head, *_body(summary, corpus, counted, figures, mixed, reviewed)]
    path = folder / "README.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [*figures, path]


def _body(
    summary: Summary,
    corpus: Sequence[dict[str, Any]],
    counted: str,
    figures: Sequence[Path],
    mixed: bool,
    reviewed: bool,
) -> Iterator[str]:
    about = summary.about
    card, recipe = about["card"], about["recipe"]
    yield f"\n# {card['name']}\n"
    yield (
        f"{len(corpus):,} reasoning traces whose independent parts are written as parallel blocks, "
        f"made by sglang-multiverse (run `{summary.run}`).\n"
    )
    yield "## Source\n"
    yield f"{_source(about['source'])}\n"
    yield f"Licence of the source: {card['source_license'] or 'not stated here; see the source'}.\n"
    yield "## Generator\n"
    at = f" at {about['endpoint']}" if about.get("endpoint") else ""
    yield (f"`{recipe['model']}`{at}, sampling {recipe['sampling']}. {_what_it_did(recipe)}\n")
    yield f"Terms of the generator: {card['terms'] or 'not stated; fill in `card.terms`.'}\n"
    yield f"Licence of this dataset: {card['license'] or 'not stated; fill in `card.license`.'}\n"
    yield "## How it was checked\n"
    counts = summary.by_status
    done = counts["accepted"] + counts["rejected"]
    yield (
        f"Of {done:,} items {counts['accepted']:,} ({counts['accepted'] / done:.1%}) passed every "
        f"gate: {_gates(recipe)}. {_undone(counts)}"
        "`report/report.md` counts the rejections. No gate judges whether the reasoning is right.\n"
    )
    if reviewed:
        yield "People judged blocks of it; texts with a block that they doubt were left out.\n"
    yield "## Statistics\n"
    yield (
        f"Tokens are counted in {_counted(counted)}, over `text`: thought and answer. Parallelism "
        "is tokens ÷ critical path; net parallelism counts no goals, conclusions and tags above "
        "the line, so that above 1 a trace takes fewer steps than its paths one after another.\n"
    )
    yield from _statistics(corpus)
    yield (
        f"Tokens of all traces ÷ their critical paths: "
        f"{_ratio(corpus, 'tokens'):.3f}. Blocks by number of paths and depth are in the columns.\n"
    )
    for figure in figures:
        yield f"![{figure.stem}](figures/{figure.name})"
    yield "\n## Columns\n"
    yield from table(("column", "content"), [(f"`{name}`", what) for name, what in _SCHEMA])
    if mixed and recipe.get("draws"):
        yield "## For training\n"
        yield (
            "The configuration `mixed` holds prompt and completion in conversational form, every "
            "trace once, after the prompt it was drawn with.\n"
        )
    elif mixed:
        yield "## Training mixture\n"
        yield (
            "The configuration `mixed` holds prompt and completion in conversational form, eight "
            "stages from sequential to parallel (share of parallel texts 0, 0, .1, .5, .5, .9, 1, "
            "1), every trace four times in each form. The order of the rows is the curriculum: "
            "train on it unshuffled and unpacked.\n"
        )


def _undone(counts: Mapping[str, int]) -> str:
    """Of the items that are neither accepted nor rejected."""
    left = counts["error"] + counts["pending"]
    if not left:
        return ""
    return (
        f"{left:,} more are left out: {counts['error']:,} failed, {counts['pending']:,} were not "
        "reached. "
    )


def _what_it_did(recipe: dict[str, Any]) -> str:
    draws = recipe.get("draws")
    if draws is None:
        return (
            "It outlined the chains, wrote goals and conclusions, and rewrote the text of the "
            "paths. Text outside the blocks is the source's, to the letter."
        )
    which = {
        "shortest": "the right one with the shortest critical path is kept",
        "parallel": "the most parallel right one is kept",
        "all": "all right ones are kept",
    }
    return (
        f"The traces are its own answers: {draws['n']} to each question, asked in the "
        f"{draws['mode']} mode, of which {which[draws['choose']]}."
    )


def _gates(recipe: dict[str, Any]) -> str:
    if recipe.get("draws"):
        return (
            "grammar and numbering, the final answer against the source's, independence of the "
            "paths by their wording"
        )
    return (
        "grammar and numbering, coverage of the source's sentences, edit distance to the source "
        "overall and per window, the final answer, independence of the paths by their wording"
    )


def _source(source: dict[str, Any]) -> str:
    if source["dataset"]:
        return (
            f"`{source['dataset']}` at revision `{source['revision']}`, split `{source['split']}`."
        )
    names = ", ".join(f"`{Path(file).name}`" for file in source["files"])
    return f"Files: {names}."


def _counted(counted: str) -> str:
    if counted == "pieces":
        return "pieces of text (words, digits, signs), close to but not equal to a model's tokens"
    return f"tokens of the tokenizer `{counted}`"


def _statistics(corpus: Sequence[dict[str, Any]]) -> Iterator[str]:
    columns = (
        "parallelism",
        "net_parallelism",
        "tokens",
        "critical_path_tokens",
        "blocks",
        "paths",
        "depth",
        "distance",
        "cost",
    )
    body = []
    for name in columns:
        values = _values(corpus, name)
        if not values or (name == "cost" and not any(values)):
            continue
        cells = (fmean(values), median(values), min(values), max(values))
        body.append((name, *(f"{value:,.4g}" for value in cells)))
    yield from table(("", "mean", "median", "least", "most"), body)


def _values(corpus: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Of the rows that have one."""
    return [value for row in corpus if not math.isnan(value := float(row[name]))]


def _ratio(corpus: Sequence[dict[str, Any]], name: str) -> float:
    critical = sum(row["critical_path_tokens"] for row in corpus)
    return sum(row[name] for row in corpus) / critical if critical else 1.0


def _draw(corpus: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, title, label in FIGURES:
        values = _values(corpus, name)
        if not values:
            continue
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.hist(values, bins=30, color="#4878a8")
        axes.set(title=title, xlabel=label, ylabel="traces")
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120)
        paths.append(path)
    return paths
