"""Which examples are trained on: structure and length are checked before the first step.

Every example is kept as it is, cut at a place where no block is open, or dropped for a reason that
is counted. Nothing is repaired: a block that the data does not close teaches never to close one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..dialect import Dialect, Tag
from ..layout import layout_of
from ..structure import Issue, StructureError, Trace, parse

Policy = Literal["drop", "truncate", "error"]

IGNORED = -100


class ExampleError(ValueError):
    """An example that the chosen policy refuses; the message names it and the remedy."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of one example: its first ``keep`` tokens, 0 where it is dropped.

    Attributes:
        reason: why it was dropped or cut, e.g. ``malformed: path_count``; None where untouched.
        critical_path: of what is kept, in tokens.
        blocks, paths: of what is kept, nested ones included; ``depth`` of its deepest block.
    """

    keep: int
    reason: str | None
    critical_path: int
    detail: str = ""
    blocks: int = 0
    paths: int = 0
    depth: int = 0


@dataclass
class Screening:
    """Counts over one dataset.

    Attributes:
        dropped, truncated: how many examples, by reason.
        lengths: tokens of every example that is kept.
        critical_paths: their critical paths, in tokens.
        trained_tokens: tokens that carry loss once the collator has masked what the engine writes.
        forking: examples with a block; ``blocks`` and ``paths`` in them, ``depth`` of the deepest.
        rows: which examples were kept, by their place in the dataset.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    truncated: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    critical_paths: list[int] = field(default_factory=list)
    trained_tokens: int = 0
    forking: int = 0
    blocks: int = 0
    paths: int = 0
    depth: int = 0
    rows: list[int] = field(default_factory=list)

    @property
    def kept(self) -> int:
        return len(self.lengths)

    @property
    def parallelism(self) -> float:
        """Tokens of all kept texts, prompts included, ÷ tokens of their critical paths."""
        return sum(self.lengths) / max(sum(self.critical_paths), 1)

    def lines(self) -> list[str]:
        """The report, one fact a line."""
        total = self.kept + self.dropped.total()
        lines = [f"kept {self.kept} of {total} examples"]
        lines += [f"dropped {n}: {reason}" for reason, n in sorted(self.dropped.items())]
        lines += [f"truncated {n}: {reason}" for reason, n in sorted(self.truncated.items())]
        if self.kept:
            low, middle, high = np.percentile(self.lengths, (0, 50, 100)).astype(int)
            lines.append(
                f"{sum(self.lengths)} tokens, {self.trained_tokens} of them trained on; "
                f"lengths {low} to {high}, median {middle}"
            )
            lines.append(
                f"{self.forking} examples with blocks: {self.blocks} blocks, {self.paths} paths, "
                f"depth {self.depth}"
            )
            lines.append(f"degree of parallelism {self.parallelism:.3f}, prompts included")
        return lines


def judge(
    tokens: Sequence[int],
    labels: Sequence[int],
    dialect: Dialect,
    *,
    max_length: int | None,
    overlong: Policy = "drop",
    malformed: Policy = "drop",
) -> Verdict:
    """Judge one tokenised text, prompt included.

    Args:
        tokens: ids, shape ``(n,)``; ``labels`` beside them, -100 where no loss is taken.
        max_length: longest text allowed, in tokens; None for any.
        overlong: ``drop`` it, ``truncate`` it before the block that the limit falls into, or
            ``error``.
        malformed: ``drop`` it, ``truncate`` it before the first block that departs from the
            canonical form, or ``error``.
    """
    trace = parse(tokens, dialect)
    issues = _issues(trace, tokens, labels, dialect)
    keep, reason, detail = len(tokens), None, ""
    if issues:
        reason, detail = f"malformed: {issues[0].code}", str(StructureError(issues))
        if malformed != "truncate":
            return Verdict(0, reason, 0, detail)
        keep = _legal(tokens, dialect, min(issue.offset for issue in issues))
    if max_length is not None and keep > max_length:
        reason = f"longer than {max_length} tokens"
        detail = f"{keep} tokens"
        if overlong != "truncate":
            return Verdict(0, reason, 0, detail)
        keep = _legal(tokens, dialect, max_length)
    if all(label == IGNORED for label in labels[:keep]):
        return Verdict(0, f"{reason}, nothing left to train on" if reason else "no labels", 0)
    laid = layout_of(trace)
    blocks = [(block, depth) for block, depth in trace.walk() if block.start < keep]
    return Verdict(
        keep,
        reason,
        int(laid.position[:keep].max()) + 1,
        detail,
        blocks=len(blocks),
        paths=sum(len(block.paths) for block, _ in blocks),
        depth=max((depth for _, depth in blocks), default=0),
    )


def _issues(
    trace: Trace, tokens: Sequence[int], labels: Sequence[int], dialect: Dialect
) -> list[Issue]:
    """Departures from the canonical form that an engine would not have produced.

    Tags in a question that open no block are words, as they are to the engine; and a dialogue has
    a thought for each of its turns.
    """
    answer = next((i for i, label in enumerate(labels) if label != IGNORED), len(labels))
    words = not any(block.start < answer < block.end for block in trace.blocks)
    think, end = dialect[Tag.THINK], dialect[Tag.END_THINK]

    def fine(issue: Issue) -> bool:
        if issue.offset < answer and words:
            return True
        if issue.code != "stray_tag" or tokens[issue.offset] not in (think, end):
            return False
        before = list(tokens[: issue.offset])
        opened = before.count(think) - before.count(end)
        return opened == (0 if tokens[issue.offset] == think else 1)

    return [issue for issue in trace.issues if not fine(issue)]


def _legal(tokens: Sequence[int], dialect: Dialect, limit: int) -> int:
    """The longest prefix of at most ``limit`` tokens that ends outside every block."""
    opened: list[int] = []
    for offset, token in enumerate(tokens[:limit]):
        if token == dialect[Tag.PARALLEL]:
            opened.append(offset)
        elif token == dialect[Tag.END_PARALLEL] and opened:
            opened.pop()
    return opened[0] if opened else min(limit, len(tokens))


def screen(
    dataset: Any,
    dialect: Dialect,
    *,
    max_length: int | None,
    overlong: Policy = "drop",
    malformed: Policy = "drop",
    name: str = "train",
    num_proc: int | None = None,
    trained: Callable[[list[int], list[int]], int] | None = None,
) -> tuple[Any, Screening | None]:
    """Keep, cut or drop every example of a tokenised dataset (``input_ids``, ``labels``).

    Args:
        trained: how many tokens of a text carry loss; by default those with a label.

    Returns:
        The dataset, and the counts; None for a streamed one, which is judged as it is read.

    Raises:
        ExampleError: with a policy of ``error``, on the first example it forbids; or when nothing
            is left.
    """
    policy = {"max_length": max_length, "overlong": overlong, "malformed": malformed}

    def mark(example: dict[str, Any], index: int) -> dict[str, Any]:
        verdict = judge(example["input_ids"], example["labels"], dialect, **policy)
        _refuse(verdict, policy, name, index)
        ids, labels = example["input_ids"][: verdict.keep], example["labels"][: verdict.keep]
        return {
            "input_ids": ids,
            "labels": labels,
            "_reason": verdict.reason or "",
            "_critical_path": verdict.critical_path,
            "_trained": (trained or _labelled)(ids, labels) if ids else 0,
            "_blocks": verdict.blocks,
            "_paths": verdict.paths,
            "_depth": verdict.depth,
        }

    streamed = not hasattr(dataset, "num_rows")
    named = {} if streamed else {"num_proc": num_proc, "desc": f"Screening {name} dataset"}
    marked = dataset.map(mark, with_indices=True, **named)
    own = ["_reason", "_critical_path", "_trained", "_blocks", "_paths", "_depth"]
    if streamed:
        return marked.filter(lambda row: len(row["input_ids"]) > 0).remove_columns(own), None
    counts = _count(marked)
    if not counts.rows and marked.num_rows:
        raise ExampleError(
            f"no example of the {name} dataset can be trained on: "
            + "; ".join(f"{n} × {reason}" for reason, n in counts.dropped.items())
            + ". Raise max_length, set overlong or malformed to 'truncate', or repair the texts"
        )
    kept = marked if counts.kept == marked.num_rows else marked.select(counts.rows)
    return kept.remove_columns(own), counts


def _refuse(verdict: Verdict, policy: dict[str, Any], name: str, index: int) -> None:
    reason = verdict.reason or ""
    kind = "malformed" if reason.startswith("malformed") else "overlong"
    if verdict.keep == 0 and reason.startswith(("malformed", "longer")) and policy[kind] == "error":
        raise ExampleError(
            f"example {index} of the {name} dataset: {reason} ({verdict.detail}); repair it, or "
            f"choose {kind}='drop' or 'truncate'"
        )


def _count(marked: Iterable[dict[str, Any]]) -> Screening:
    counts = Screening()
    for at, row in enumerate(marked):
        if not len(row["input_ids"]):
            counts.dropped[row["_reason"]] += 1
            continue
        if row["_reason"]:
            counts.truncated[row["_reason"]] += 1
        counts.rows.append(at)
        counts.lengths.append(len(row["input_ids"]))
        counts.critical_paths.append(row["_critical_path"])
        counts.trained_tokens += row["_trained"]
        counts.forking += row["_blocks"] > 0
        counts.blocks += row["_blocks"]
        counts.paths += row["_paths"]
        counts.depth = max(counts.depth, row["_depth"])
    return counts


def _labelled(ids: list[int], labels: list[int]) -> int:
    return sum(label != IGNORED for label in labels[1:])
