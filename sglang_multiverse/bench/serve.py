"""``multiverse bench serve``: wall-clock time of the same texts, written in four ways."""

from __future__ import annotations

import contextlib
import random
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..server import Server
from .forwards import StepCost, Work, in_parallel, sequential, together
from .numbers import spread
from .scripted import write_scripts
from .servers import WAYS, serving
from .shapes import Author, Script, Shape
from .step_times import Stopwatch
from .tell import Tell
from .ways import Run, Texts, Writer, timed

_HOW: dict[str, Callable[[Writer, int], Awaitable[dict[str, Any]]]] = {
    "stock": Writer.whole,
    "client": Writer.by_client,
    "plugin": Writer.whole,
    "multiverse": Writer.whole,
}
#: Tokens of KV beside what the texts of a case need.
_SLACK = 4000
_SWEEPS = 3


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        degrees, batches: every degree of parallelism with every number of texts at once.
        path_tokens: tokens of a path in these texts.
        long: ``(degree, path tokens)`` of further texts, alone.
        traces: shapes of real traces, each alone.
        repeats: runs of each way, in turn.
        ways: which of :data:`~.servers.WAYS`; ``stock`` and at least one that forks.
    """

    degrees: Sequence[float]
    batches: Sequence[int]
    path_tokens: int
    long: Sequence[tuple[float, int]] = ()
    traces: Sequence[Shape] = ()
    repeats: int = 3
    ways: Sequence[str] = WAYS
    stream: bool = False
    seed: int = 0


@dataclass
class Case:
    """One row of the table: texts that are written at once."""

    name: str
    scripts: list[Script]
    path_tokens: int | None
    first: int = 0
    runs: dict[str, list[Run]] = field(default_factory=lambda: {way: [] for way in WAYS})

    @property
    def indices(self) -> range:
        return range(self.first, self.first + len(self.scripts))

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        return sum(len(script.ids) - script.prompt_len for script in self.scripts)

    @property
    def degree(self) -> float:
        """Generated tokens ÷ tokens of the texts' critical paths."""
        return self.tokens / sum(script.critical_path for script in self.scripts)


def cases(plan: Plan, author: Author) -> list[Case]:
    """The cases of ``plan``, each with texts of its own."""
    rng = random.Random(plan.seed)

    def texts(degree: float, length: int, count: int, name: str) -> list[Script]:
        found = []
        for _ in range(count):
            # Several at once are never quite in step.
            own = length if count == 1 else round(length * rng.uniform(0.75, 1.25))
            found.append(author.of_degree(degree, own, rng.randrange(1 << 30), name=name))
        return found

    found = []
    for batch in plan.batches:
        for degree in plan.degrees:
            name = f"degree {degree:g}, batch {batch}"
            scripts = texts(degree, plan.path_tokens, batch, name)
            found.append(Case(name, scripts, plan.path_tokens))
    for degree, length in plan.long:
        name = f"degree {degree:g}, paths of {length}"
        found.append(Case(name, texts(degree, length, 1, name), length))
    for number, shape in enumerate(plan.traces):
        name = f"trace {number + 1}"
        found.append(Case(name, [author.write(shape, rng.randrange(1 << 30), name=name)], None))
    first = 0
    for case in found:
        case.first = first
        first += len(case.scripts)
    return found


def run(plan: Plan, model: Path, tell: Tell) -> dict[str, Any]:
    """Measure ``plan`` on servers of ``model``, and return what ``--json`` prints.

    Raises:
        ServerError: a server did not come up, or went away.
        BenchError: a server wrote another text than the scripted one.
    """
    from transformers import AutoTokenizer

    author = Author(AutoTokenizer.from_pretrained(model))
    found = cases(plan, author)
    works = {
        case.name: (
            together(sequential(script) for script in case.scripts),
            together(in_parallel(script) for script in case.scripts),
        )
        for case in found
    }
    most_rows = max(work.rows for pair in works.values() for plan_ in pair for work in plan_)
    need = max(sum(len(script.ids) for script in case.scripts) for case in found)
    ways = [way for way in WAYS if way in plan.ways]
    with tempfile.TemporaryDirectory(prefix="multiverse-bench-") as folder:
        texts = Texts([script for case in found for script in case.scripts], Path(folder) / "texts")
        write_scripts(texts.scripts, texts.path)
        with contextlib.ExitStack() as stack:
            servers: dict[str, Server] = {}
            for way in ways:
                if way != "client":
                    tokens = int(1.3 * need) + _SLACK
                    servers[way] = stack.enter_context(serving(way, model, tokens, tell))
            servers["client"] = servers["stock"]
            watch = Stopwatch(servers["stock"], author, Path(folder), most_rows, tell)
            _warm(servers, author, Path(folder), tell)
            _measure(plan, found, ways, servers, texts, watch, tell)
            cost, cpu = watch.cost(), watch.cost(cpu=True)
    return {
        "rows": [_row(case, ways, *works[case.name], cost, cpu) for case in found],
        "step_seconds": {str(rows): seconds for rows, seconds in cost.decode.items()},
        "step_cpu_seconds": {str(rows): seconds for rows, seconds in cpu.decode.items()},
        "extend_token_seconds": cost.token,
        "kv_token_seconds": cost.kv,
        "stream": plan.stream,
        "repeats": plan.repeats,
    }


def _warm(servers: dict[str, Server], author: Author, folder: Path, tell: Tell) -> None:
    """The first forwards of a server take seconds; none of them is measured."""
    script = author.of_degree(2.0, 12, 0)
    texts = Texts([script] * 3, folder / "warm.json")
    write_scripts(texts.scripts, texts.path)
    for way, server in servers.items():
        tell(f"warming up {way} …")
        timed(server, texts, [0], _HOW[way])
        timed(server, texts, [0, 1, 2], _HOW[way])


def _measure(
    plan: Plan,
    found: Sequence[Case],
    ways: Sequence[str],
    servers: dict[str, Server],
    texts: Texts,
    watch: Stopwatch,
    tell: Tell,
) -> None:
    """Ways take turns within a case, cases within a repeat; step times in between."""
    sweeps_after = {plan.repeats * part // (_SWEEPS - 1) for part in range(1, _SWEEPS)}
    tell("step times of stock SGLang …")
    watch.sweep()
    for repeat in range(plan.repeats):
        for case in found:
            turn = repeat % len(ways)
            for way in (*ways[turn:], *ways[:turn]):
                run = timed(servers[way], texts, case.indices, _HOW[way], stream=plan.stream)
                case.runs[way].append(run)
            told = (f"{way} {case.runs[way][-1].seconds:.2f} s" for way in ways)
            tell(f"{case.name}, run {repeat + 1} of {plan.repeats}: {', '.join(told)}")
        if repeat + 1 in sweeps_after:
            tell("step times of stock SGLang again …")
            watch.sweep()


def _row(
    case: Case,
    ways: Sequence[str],
    in_sequence: Sequence[Work],
    forked: Sequence[Work],
    cost: StepCost,
    cpu: StepCost,
) -> dict[str, Any]:
    times = {way: [run.seconds for run in case.runs[way]] for way in ways}
    spreads = {way: spread(times[way]) for way in ways}

    def faster(way: str, than: str) -> float | None:
        if than not in ways:
            return None
        return statistics.median(a / b for a, b in zip(times[than], times[way], strict=True))

    ours = "multiverse" if "multiverse" in ways else "plugin"
    metas = case.runs[ours][0].metas
    return {
        "name": case.name,
        "degree": round(case.degree, 3),
        "batch": len(case.scripts),
        "path_tokens": case.path_tokens,
        "tokens": case.tokens,
        "critical_path_tokens": max(script.critical_path for script in case.scripts),
        "forks": sum(meta["multiverse_forks"] for meta in metas),
        "forward_steps": max(meta["multiverse_forward_steps"] for meta in metas),
        "seconds": {way: spreads[way]["median"] if way in ways else None for way in WAYS},
        "spread": {
            way: [spreads[way]["low"], spreads[way]["high"]] if way in ways else None
            for way in WAYS
        },
        "cpu_seconds": {
            way: statistics.median(run.cpu_seconds for run in case.runs[way])
            if way in ways
            else None
            for way in WAYS
        },
        "tokens_per_second": {
            way: case.tokens / spreads[way]["median"] if way in ways else None for way in WAYS
        },
        "speedup_of": ours,
        "speedup_vs_stock": faster(ours, "stock"),
        "speedup_vs_client": faster(ours, "client"),
        "speedups": {
            way: {"vs_stock": faster(way, "stock"), "vs_client": faster(way, "client")}
            for way in ways
            if way not in ("stock", "client")
        },
        "ideal": cost.total(in_sequence) / cost.total(forked),
        "cpu_speedup_vs_stock": statistics.median(
            a.cpu_seconds / b.cpu_seconds
            for a, b in zip(case.runs["stock"], case.runs[ours], strict=True)
        ),
        "cpu_ideal": cpu.total(in_sequence) / cpu.total(forked),
        "modelled_seconds": {"stock": cost.total(in_sequence), "ideal": cost.total(forked)},
    }
