"""Rewards by name, ``module:function`` or ``file.py:function``, with weights and schedules:
``NAME[=WEIGHT][@FIRST-LAST[/WINDOW]]``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import functions
from .checked import SECONDS, Reward, RewardError, Schedule, _line
from .mathematics import MathReward

#: Names of rewards that ship, and what each is 1.0 for.
NAMES = {
    "math": "the final answer equals the reference (a dataset column)",
    "tiny": "the answer to the tiny task is right",
    "validity": "the text is in canonical form and came to its own end",
    "latency": "share of latency_budget that the critical path leaves, of right answers",
    "parallel": "the answer forked, of right answers",
}
#: Of these, what counts only in answers that another reward calls right.
GATED = ("latency", "parallel")

_SPEC = re.compile(r"(?P<name>[^=@]+)(?:=(?P<weight>[^@]*))?(?:@(?P<steps>.*))?")


@dataclass(frozen=True)
class Spec:
    """One ``--reward``, read."""

    name: str
    weight: float | None
    schedule: Schedule | None

    @classmethod
    def parse(cls, text: str) -> Spec:
        match = _SPEC.fullmatch(str(text).strip())
        if match is None:
            raise RewardError(
                f"reward {text!r}: write NAME, NAME=WEIGHT or NAME=WEIGHT@FIRST-LAST/WINDOW"
            )
        weight = None
        if match["weight"] is not None:
            try:
                weight = float(match["weight"])
            except ValueError:
                weight = math.nan
            if not math.isfinite(weight):
                raise RewardError(f"reward {text!r}: the weight after = is a number")
        steps = match["steps"]
        return cls(match["name"].strip(), weight, None if steps is None else Schedule.parse(steps))


def make_rewards(
    specs: Sequence[str],
    *,
    right: str | None = None,
    latency_budget: int = 1024,
    answer_column: str | None = None,
    per_path: bool = False,
    seconds: float = SECONDS,
) -> tuple[list[Reward], list[float | None]]:
    """The rewards of ``specs``, and their weights.

    Args:
        right: the reward, by the name in its spec, that says which answers are right; by default
            the first.

    Raises:
        RewardError: a name that is unknown, a module that does not import, …
    """
    if not specs:
        raise RewardError(f"which reward? --reward {'|'.join(NAMES)}|module:function")
    read = [Spec.parse(spec) for spec in specs]
    shared = {"per_path": per_path, "seconds": seconds}
    makers: dict[str, Callable[[], Any]] = {
        "math": partial(MathReward, answer_column),
        "tiny": lambda: functions.tiny_correctness,
        "validity": lambda: functions.validity_reward,
        "latency": lambda: partial(functions.latency_reward, budget=latency_budget),
        "parallel": lambda: functions.parallel_reward,
    }
    plain: dict[str, Reward] = {}
    for spec in read:
        if spec.name not in plain:
            made = makers.get(spec.name) or partial(_imported, spec.name)
            plain[spec.name] = Reward(made(), **shared)  # type: ignore[arg-type]
    judge = right or read[0].name
    rewards = []
    for spec in read:
        one = plain[spec.name]
        function: Any = one.values
        if spec.name in GATED:
            if judge in GATED or judge not in plain:
                raise RewardError(
                    f"reward {spec.name} counts where the answer is right, and "
                    + (
                        f"--right {right} is none of the rewards"
                        if right
                        else "no reward before it says which are: name math or module:function "
                        "first"
                    )
                )
            function = functions.where_right(plain[judge].values, one.values)
        rewards.append(_scheduled(one, function, spec, shared))
    _name_apart(rewards, read)
    return rewards, [spec.weight for spec in read]


def _scheduled(one: Reward, function: Any, spec: Spec, shared: dict[str, Any]) -> Reward:
    made = Reward(function, name=one.__name__, schedule=spec.schedule, **shared)
    made.check = one.check  # type: ignore[method-assign]  # of the user's own signature
    return made


def _name_apart(rewards: list[Reward], read: list[Spec]) -> None:
    """TRL logs by name: two functions called ``score`` would be one column."""
    names = [one.__name__ for one in rewards]
    for one, spec in zip(rewards, read, strict=True):
        if names.count(one.__name__) > 1:
            one.__name__ = spec.name + (f"@{spec.schedule}" if spec.schedule else "")


def _imported(name: str) -> Callable[..., Any]:
    module, colon, function = name.rpartition(":")
    if not colon:
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise RewardError(
            f"unknown reward {name!r}; {hint}There are {', '.join(NAMES)}, and module:function or "
            "file.py:function"
        )
    loaded = _module(module, name)
    found = getattr(loaded, function, None)
    if not callable(found):
        has = [
            key
            for key, value in vars(loaded).items()
            if callable(value) and not key.startswith("_")
            and getattr(value, "__module__", None) == loaded.__name__
        ]  # fmt: skip
        raise RewardError(
            f"reward {name}: {module} has no function {function!r}"
            + (f"; it has {', '.join(has)}" if has else "")
        )
    return found


def _module(module: str, name: str) -> Any:
    try:
        if not module.endswith(".py"):
            folder = str(Path.cwd())
            if folder not in sys.path:  # a console script's path lacks it
                sys.path.insert(0, folder)
            return importlib.import_module(module)
        path = Path(module)
        if not path.is_file():
            raise FileNotFoundError(f"no file {path.absolute()}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded
    except (Exception, SystemExit) as error:
        raise RewardError(
            f"reward {name}: {module} does not import ({type(error).__name__}: {_line(error)}); "
            "name a module that Python finds from here, or its file: path/to/file.py:function"
        ) from error
