"""What came of all draws of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from sglang_multiverse.evaluation.statistics import pass_at, ratio, share

from ..store.store import Outcome


def tally(outcomes: Iterable[Outcome]) -> dict[str, Any] | None:
    """Samples, how many are right, forked, used, and why the others are not; pass@k; parallelism
    of all and of the chosen. None where nothing was drawn."""
    codes: Counter[str] = Counter()
    right: dict[str, list[float]] = {}
    sides: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    unsolved = unused = 0
    for outcome in outcomes:
        samples = (outcome.result or {}).get("samples") or []
        if not samples:
            continue
        right[outcome.item] = [float(one["right"]) for one in samples]
        unsolved += not any(right[outcome.item])
        unused += not any(one["chosen"] for one in samples)
        for one in samples:
            codes[one["code"]] += bool(one["code"])
            sides[one["chosen"]].append(one)
    if not right:
        return None
    everything = [*sides[True], *sides[False]]
    most = max(map(len, right.values()))
    return {
        "questions": len(right),
        "samples": len(everything),
        "right": share(right).row(),
        "forked": sum(one["forked"] for one in everything),
        "chosen": len(sides[True]),
        "not_used": {code: count for code, count in codes.most_common() if count},
        "pass_at": {str(k): pass_at(right, k).row() for k in sorted({1, most})},
        "questions_without_a_right_sample": unsolved,
        "questions_without_a_row": unused,
        "all": _lengths(everything),
        "of_the_chosen": _lengths(sides[True]),
    }


def _lengths(samples: list[dict[str, Any]]) -> dict[str, Any]:
    some = [one for one in samples if one["tokens"]]
    if not some:
        return {"critical_path": None, "tokens": None, "parallelism": None}
    tokens = {str(i): [float(one["tokens"])] for i, one in enumerate(some)}
    critical = {str(i): [float(one["critical_path"])] for i, one in enumerate(some)}
    return {
        "critical_path": sum(one["critical_path"] for one in some) / len(some),
        "tokens": sum(one["tokens"] for one in some) / len(some),
        "parallelism": ratio(tokens, critical).value,
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The tally for the reader."""
    right, best = found["right"], list(found["pass_at"].items())[-1]
    yield (
        f"{found['samples']:,} answers to {found['questions']:,} questions: "
        f"{_percent(right)} right, {found['forked']:,} forked, {found['chosen']:,} chosen; "
        f"pass@{best[0]} {_percent(best[1])}"
    )
    yield (
        f"{found['questions_without_a_right_sample']:,} questions without a right answer, "
        f"{found['questions_without_a_row']:,} without a row"
    )
    if found["not_used"]:
        reasons = ", ".join(f"{code} ×{count:,}" for code, count in found["not_used"].items())
        yield f"not used: {reasons}"
    for name, key in (("all", "all"), ("chosen", "of_the_chosen")):
        one = found[key]
        if one["tokens"] is not None:
            yield (
                f"{name}: {one['tokens']:,.0f} tokens, critical path {one['critical_path']:,.0f}, "
                f"parallelism {one['parallelism']:.2f}"
            )


def _percent(estimate: dict[str, Any]) -> str:
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"
