"""The report of a folder of logs: Markdown, JSON and figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .counting import by_length, counted, differences, within
from .figures import draw
from .runs import Arm, read_arms

#: Figures of the main table: what they are called, the key of the estimate, and its digits.
_FIGURES = (
    ("# parallel", "parallelism", 2),
    ("net", "net_parallelism", 2),
    ("tokens", "tokens", 0),
    ("critical path", "critical_path", 0),
    ("seconds", "seconds", 2),
)


def write(logs: Path, out: Path) -> dict[str, Any]:
    """Write ``report.md``, ``report.json`` and ``figures/`` to ``out``; what the JSON holds.

    Raises:
        LogsError: no log is there.
    """
    arms = read_arms(logs)
    found = report(arms)
    out.mkdir(parents=True, exist_ok=True)
    pictures = draw(arms, out / "figures")
    (out / "report.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (out / "report.md").write_text("\n".join(_markdown(found, pictures)) + "\n")
    return found


def report(arms: Sequence[Arm]) -> dict[str, Any]:
    """All that is counted, as JSON."""
    curves = [
        {
            "arm": curve.arm,
            "unit": unit,
            "points": [
                {"budget": budget, **estimate.row()}
                for budget, estimate in zip(curve.budgets, curve.accuracy, strict=True)
            ],
        }
        for unit in ("critical_path", "seconds")
        for arm in arms
        if (curve := within(arm, unit)) is not None
    ]
    return {
        "head": [_head(arm) for arm in arms],
        "arms": [counted(arm) for arm in arms],
        "differences": list(differences(arms)),
        "within_budget": curves,
        "by_length": [row for arm in arms for row in by_length(arm)],
    }


def _head(arm: Arm) -> dict[str, Any]:
    """What somebody needs who wants to ask the same."""
    about = arm.about
    return {
        "arm": arm.name,
        "model": arm.model,
        "suite": about.get("suite"),
        "created": about.get("created"),
        "status": about.get("status"),
        "versions": {
            **(about.get("packages") or {}),
            "sglang": (about.get("server_info") or {}).get("version"),
            "sglang-multiverse": about.get("plugin_version"),
        },
        "server": about.get("server_info") or {},
        "plugin": about.get("plugin"),
        "flags": about.get("flags"),
        "gpu": about.get("gpu"),
        "revision": about.get("revision"),
        "sampling": about.get("sampling"),
        "prompt_ending": about.get("prompt_ending"),
        "data": about.get("data"),
        "task_args": about.get("task_args"),
    }


def _markdown(found: dict[str, Any], pictures: dict[str, Path]) -> Iterator[str]:
    yield "# Evaluation"
    yield ""
    yield from _heads(found["head"])
    yield ""
    yield "## Results"
    yield ""
    yield from _main(found["arms"])
    yield ""
    yield (
        "± is one standard error, clustered by question; […] is the 95 % interval. # parallel: "
        "tokens of all answers ÷ their critical-path tokens; net: the same with only what stands "
        "outside tags, goals and conclusions above the line. A run that was refused or failed "
        "counts as wrong, and one that was cut unless its answer was there and right."
    )
    yield from _missing(found["arms"])
    if any(row["epochs"] > 1 for row in found["arms"]):
        yield ""
        yield from _several(found["arms"])
    yield ""
    yield "## What became of the runs"
    yield ""
    yield from _outcomes(found["arms"])
    reasons = [(arm["arm"], arm["reasons"]) for arm in found["arms"] if arm["reasons"]]
    if reasons:
        yield ""
    for name, some in reasons:
        for said, count in some.items():
            yield f"- {name}, {count} ×: `{said.replace('`', chr(39))}`"
    if found["differences"]:
        yield ""
        yield "## Differences, paired by question"
        yield ""
        yield from _differences(found["differences"])
    if found["by_length"]:
        yield ""
        yield "## Accuracy by length of the answer"
        yield ""
        yield from _lengths(found["by_length"])
    for title, name in (
        ("Accuracy within a budget", "within-critical_path"),
        ("Accuracy within a time", "within-seconds"),
        ("Seconds a token against degree of parallelism", "latency"),
    ):
        if name in pictures:
            yield ""
            yield f"## {title}"
            yield ""
            yield f"![{title}](figures/{pictures[name].name})"


def _missing(arms: list[dict[str, Any]]) -> Iterator[str]:
    """What the figures lack."""
    errors, not_asked = (sum(row[name] for row in arms) for name in ("errors", "not_asked"))
    parts = [f"{errors} failed and lower what is above"] * bool(errors)
    parts += [f"{not_asked} were not asked and are no part of it"] * bool(not_asked)
    if parts:
        yield ""
        yield (
            f"**{errors + not_asked} runs have no answer yet**: {', '.join(parts)}; "
            "run the suite again."
        )


def _heads(heads: list[dict[str, Any]]) -> Iterator[str]:
    """What all arms share in one list, what they differ in by arm."""
    named: dict[str, Callable[[dict[str, Any]], Any]] = {
        "model": lambda head: head["model"],
        "model path": lambda head: head["server"].get("model_path"),
        "revision": lambda head: head["revision"] or head["server"].get("revision"),
        "versions": lambda head: _pairs(head["versions"]),
        "device": lambda head: " × ".join(
            str(one)
            for one in (head["gpu"] or head["server"].get("device"), head["server"].get("tp_size"))
            if one is not None
        ),
        "server": lambda head: _pairs(
            {
                name: value
                for name, value in head["server"].items()
                if name not in ("model_path", "revision", "version", "device", "tp_size")
            }
        ),
        "flags": lambda head: " ".join(map(str, head["flags"] or [])),
        "sampling": lambda head: _pairs(head["sampling"] or {}),
        "limits": lambda head: _pairs(
            {name: (head["task_args"] or {}).get(name) for name in ("max_tokens", "seed")}
        ),
        "questions end": lambda head: head["prompt_ending"],
        "data": lambda head: _data(head["data"] or {}),
    }
    for name, read in named.items():
        values = [(head["arm"], str(read(head) or "")) for head in heads]
        if not any(value for _, value in values):
            continue
        if len({value for _, value in values}) == 1:
            yield f"- **{name}**: {values[0][1]}"
        else:
            yield f"- **{name}**: " + "; ".join(f"{arm}: {value}" for arm, value in values)


def _data(data: dict[str, Any]) -> str:
    if not data:
        return ""
    return f"{data['source']}, {data['questions']} questions, sha256 {data['sha256'][:12]}"


def _pairs(some: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in some.items() if value is not None)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        cells = (cell.replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"


def _main(arms: list[dict[str, Any]]) -> Iterator[str]:
    head = ["arm", "accuracy", "n × k", *(name for name, _, _ in _FIGURES)]
    rows = []
    for arm in arms:
        of = f"{arm['accuracy']['questions']} × {arm['epochs']}"
        rows.append(
            [arm["arm"], percent(arm["accuracy"]), of, *(figure(arm[k], n) for _, k, n in _FIGURES)]
        )
    yield from _table(head, rows)


def _several(arms: list[dict[str, Any]]) -> Iterator[str]:
    """Arms may have numbers of epochs of their own."""
    arms = [arm for arm in arms if arm["epochs"] > 1]
    columns = [
        (key, k)
        for key in ("pass_at", "majority_at")
        for k in sorted({k for arm in arms for k in arm[key]}, key=int)
    ]
    head = ["arm", *(f"{key.removesuffix('_at')}@{k}" for key, k in columns)]
    rows = [
        [arm["arm"], *(percent(arm[key][k]) if k in arm[key] else "–" for key, k in columns)]
        for arm in arms
    ]
    yield from _table(head, rows)


def _outcomes(arms: list[dict[str, Any]]) -> Iterator[str]:
    names = ["answered", "cut", "refused", "errors", "not_asked", "retries"]
    names.append("goals_not_forked")
    rows = [
        [
            arm["arm"],
            *(str(arm[name]) for name in names),
            percent(arm["forked"]),
            ", ".join(f"{rule} {count}" for rule, count in sorted(arm["extraction"].items())),
        ]
        for arm in arms
    ]
    head = ["arm", *(name.replace("_", " ") for name in names), "forked", "answer found by"]
    yield from _table(head, rows)


def _differences(found: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        [
            f"{one['second']} − {one['first']}",
            percent(one["accuracy"], signed=True),
            figure(one["critical_path"], 0, signed=True),
            figure(one["tokens"], 0, signed=True),
            figure(one["seconds"], 2, signed=True),
        ]
        for one in found
    ]
    yield from _table(["arms", "accuracy", "critical path", "tokens", "seconds"], rows)


def _lengths(found: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        [one["arm"], f"{one['tokens'][0]} to {one['tokens'][1]}", percent(one["accuracy"])]
        for one in found
    ]
    yield from _table(["arm", "tokens", "accuracy"], rows)


def percent(estimate: dict[str, Any], *, signed: bool = False) -> str:
    """``83.3 ± 4.2 % [73.2, 90.1]``."""
    if estimate["value"] is None:
        return "–"
    sign = "+" if signed else ""
    value = f"{100 * estimate['value']:{sign}.1f}"
    if estimate["se"] is None:
        return f"{value} %"
    low, high = 100 * estimate["low"], 100 * estimate["high"]
    return f"{value} ± {100 * estimate['se']:.1f} % [{low:.1f}, {high:.1f}]"


def figure(estimate: dict[str, Any], digits: int, *, signed: bool = False) -> str:
    """``1.18 ± 0.02``."""
    if estimate["value"] is None:
        return "–"
    sign = "+" if signed else ""
    value = f"{estimate['value']:{sign}.{digits}f}"
    return value if estimate["se"] is None else f"{value} ± {estimate['se']:.{digits}f}"
