"""What the plugin's hooks cost a server's scheduler per step, timed where they run.

:class:`HookTimer` is a custom logit processor, and so runs in the scheduler's process. Told to
start, it puts a stopwatch around every hook that :mod:`sglang_multiverse.patches` has registered;
what a hook calls of SGLang's own is not counted, nor what the stopwatch itself takes. Told to stop,
it writes calls and seconds to a file.

Reads the closures of the wrappers that ``sglang/srt/plugins/hook_registry.py`` makes (their
variable ``hook``). Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import itertools
import json
import pkgutil
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

from ..server import Server
from .scripted import read_log, write_scripts
from .servers import serving
from .shapes import Author, Script, forked, plain
from .tell import Tell
from .ways import BenchError, Texts, Writer, timed

_CLOCK = time.perf_counter
_PATHS = 4


@dataclass
class Watch:
    """Calls of one hook and the seconds they took, SGLang's own code in between not counted."""

    calls: int = 0
    seconds: float = 0.0


class HookTimer(CustomLogitProcessor):  # type: ignore[misc]
    """``custom_params``: ``{"hooks": "start"}``, or ``"stop"`` with ``file`` for the result."""

    def __call__(self, logits: Any, custom_param_list: Any) -> Any:
        for params in custom_param_list:
            if params.get("hooks") == "start":
                _start()
            elif params.get("hooks") == "stop":
                _stop(params["file"])
        return logits


_watches: dict[str, Watch] = {}
_running: list[bool] = []


def _start() -> None:
    if not _watches:
        from ..patches.registry import scheduler_hooks

        for hook in scheduler_hooks():
            name = ".".join(hook.target.split(".")[-2:])
            cell = _cell(hook.target, hook.run)
            watch = _watches.setdefault(f"{name} ({hook.run.__module__.split('.')[-1]})", Watch())
            cell.cell_contents = _timed(hook.run, watch, around=hook.kind.name == "AROUND")
    for watch in _watches.values():
        watch.calls, watch.seconds = 0, 0.0
    _running[:] = [True]


def _stop(file: str) -> None:
    _running.clear()
    extra = {around: _overhead(around=around) for around in (False, True)}
    from ..patches.registry import scheduler_hooks

    kinds = {
        f"{'.'.join(h.target.split('.')[-2:])} ({h.run.__module__.split('.')[-1]})": h.kind.name
        for h in scheduler_hooks()
    }
    found = {
        name: [watch.calls, max(0.0, watch.seconds - watch.calls * extra[kinds[name] == "AROUND"])]
        for name, watch in _watches.items()
        if watch.calls
    }
    Path(file).write_text(json.dumps(found), encoding="utf-8")


def _cell(target: str, run: Callable[..., Any]) -> Any:
    """The closure cell that holds the hook ``run`` of ``target``.

    Raises:
        BenchError: no wrapper around the target holds it.
    """
    function: Any = pkgutil.resolve_name(target)
    while function is not None:
        function = getattr(function, "__func__", function)
        names = function.__code__.co_freevars if hasattr(function, "__code__") else ()
        if "hook" in names:
            cell = function.__closure__[names.index("hook")]
            if cell.cell_contents is run:
                return cell
        function = getattr(function, "__wrapped__", None)
    raise BenchError(f"{target} is not hooked by {run.__qualname__}")


def _timed(run: Callable[..., Any], watch: Watch, *, around: bool) -> Callable[..., Any]:
    if not around:

        def flat(*args: Any, **kwargs: Any) -> Any:
            begun = _CLOCK()
            try:
                return run(*args, **kwargs)
            finally:
                watch.seconds += _CLOCK() - begun
                watch.calls += 1

        return flat

    def outer(original: Any, *args: Any, **kwargs: Any) -> Any:
        inside = 0.0

        def inner(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            entered = _CLOCK()
            try:
                return original(*args, **kwargs)
            finally:
                inside += _CLOCK() - entered

        begun = _CLOCK()
        try:
            return run(inner, *args, **kwargs)
        finally:
            watch.seconds += _CLOCK() - begun - inside
            watch.calls += 1

    return outer


def _overhead(*, around: bool, calls: int = 20_000) -> float:
    """Seconds that the stopwatch counts for a hook that does nothing."""
    watch = Watch()
    run: Callable[..., Any]
    if around:
        outer = _timed(_around_nothing, watch, around=True)
        for _ in range(calls):
            outer(_nothing, None)
    else:
        run = _timed(_nothing, watch, around=False)
        for _ in range(calls):
            run(None)
    return watch.seconds / calls


def _nothing(*args: Any) -> None:
    return None


def _around_nothing(original: Callable[..., Any], *args: Any) -> Any:
    return original(*args)


# Outside the server.


@dataclass(frozen=True)
class Case:
    """One batch to be timed.

    Attributes:
        rows: rows of a decode step; with ``forks`` they are paths, four of each text.
        prompt: tokens of each prompt.
        blocks: finished blocks in each text before the rows are timed.
    """

    rows: int
    forks: bool
    prompt: int
    blocks: int = 0

    @property
    def name(self) -> str:
        kind = f"paths of {self.rows // _PATHS} texts" if self.forks else "plain"
        done = f", {self.blocks} finished blocks" if self.blocks else ""
        return f"{self.rows} rows, {kind}, prompts of {self.prompt}{done}"


def cases(batches: Sequence[int]) -> list[Case]:
    """Batches of every size, plain and forked; then the same with long texts."""
    found = [Case(rows, forks=False, prompt=32) for rows in batches]
    found += [Case(rows, forks=True, prompt=32) for rows in batches if rows >= _PATHS]
    found += [Case(8, False, 4096), Case(8, True, 4096), Case(8, True, 32, blocks=8)]
    return found


def run(batches: Sequence[int], steps: int, model: Path, tell: Tell, *, way: str) -> Any:
    """Time the hooks of a server with the plugin, per decode step.

    Args:
        steps: tokens of each row.
        way: ``plugin`` or ``multiverse``, which attention backend runs.
    """
    from transformers import AutoTokenizer

    author = Author(AutoTokenizer.from_pretrained(model))
    found = []
    most = max(max(batches) * (steps + 100), 8 * (4096 + 8 * 300) * 2) + 4000
    with (
        tempfile.TemporaryDirectory(prefix="multiverse-bench-") as folder,
        serving(way, model, most, tell) as server,
    ):
        for number, case in enumerate(cases(batches)):
            tell(f"hooks: {case.name} …")
            row = _measure(server, case, author, steps, Path(folder), number)
            found.append({"case": case.name, "rows": case.rows, "forks": case.forks, **row})
    return found


def _scripts(case: Case, author: Author, steps: int) -> list[Script]:
    rng = random.Random(case.rows)
    if not case.forks:
        shape = plain(steps)
        count = case.rows
    else:
        once = forked(_PATHS, steps, around=2).items
        done = forked(_PATHS, 8, around=2).items
        shape = type(plain(1))(done * case.blocks + once)
        count = case.rows // _PATHS
    return [author.write(shape, rng.randrange(1 << 30), prompt=case.prompt) for _ in range(count)]


def _measure(
    server: Server, case: Case, author: Author, steps: int, folder: Path, number: int
) -> dict[str, Any]:
    scripts = _scripts(case, author, steps)
    texts = Texts(scripts, folder / f"hooks-{number}.json")
    write_scripts(scripts, texts.path)
    file, log = folder / f"hooks-{number}.out", folder / f"hooks-{number}.log"
    indices = range(len(scripts))
    timed(server, texts, indices, Writer.whole)  # what is imported or compiled once
    _switch(server, {"hooks": "start"})
    begun = time.perf_counter()
    timed(server, texts, indices, Writer.whole, log=log)
    seconds = time.perf_counter() - begun
    _switch(server, {"hooks": "stop", "file": str(file)})
    forwards = read_log(log)
    hooks = {
        name: {"calls": calls, "us": 1e6 * spent / len(forwards)}
        for name, (calls, spent) in json.loads(file.read_text(encoding="utf-8")).items()
    }
    full = [one.at for one in forwards if one.rows == case.rows]
    gaps = [after - before for before, after in itertools.pairwise(full)]
    return {
        "forwards": len(forwards),
        "step_ms": 1000 * statistics.median(gaps or [seconds / len(forwards)]),
        "us_per_step": sum(one["us"] for one in hooks.values()),
        "hooks": dict(sorted(hooks.items(), key=lambda item: -item[1]["us"])),
    }


def _switch(server: Server, params: dict[str, Any]) -> None:
    server.request(
        "/generate",
        {
            "input_ids": [1, 1, 1],
            "custom_logit_processor": HookTimer.to_str(),
            "sampling_params": {"max_new_tokens": 1, "custom_params": params},
        },
    )
