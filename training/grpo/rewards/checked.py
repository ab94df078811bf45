"""A reward function with its weight and schedule, and checks of what it takes and returns."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import numbers
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from trl.trainer.utils import get_callable_name

#: What TRL gives a reward function beside the dataset's columns.
FROM_TRL = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
#: Seconds that a reward function may take for one batch.
SECONDS = 600.0


class RewardError(ValueError):
    """A reward that cannot be found or used; the message says which, and what to do."""


@dataclass(frozen=True)
class Schedule:
    """Optimizer steps, counted from 1, in which a reward counts.

    Attributes:
        first, last: of the steps, or of those in each window.
        window: steps after which it starts anew; None: never.
    """

    first: int
    last: int
    window: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last <= (self.window or self.last):
            raise RewardError(
                f"schedule {self}: steps are FIRST-LAST or FIRST-LAST/WINDOW, counted from 1, as "
                "in 9-10/10: the last two of every ten"
            )

    @classmethod
    def parse(cls, text: str) -> Schedule:
        match = re.fullmatch(r"(\d+)-(\d+)(?:/(\d+))?", text)
        if match is None:
            raise RewardError(
                f"schedule {text!r}: steps are FIRST-LAST or FIRST-LAST/WINDOW, as in 9-10/10: the "
                "last two of every ten"
            )
        first, last, window = match.groups()
        return cls(int(first), int(last), int(window) if window else None)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}" + (f"/{self.window}" if self.window else "")

    def on(self, done: int) -> bool:
        """Whether the step after ``done`` steps is one of them."""
        step = done % self.window if self.window else done
        return self.first <= step + 1 <= self.last


class _TooLong(BaseException):
    """Not an Exception: a reward function that catches those must end, too."""


class Reward:
    """A reward function as TRL calls it.

    Args:
        function: takes what it names of the dataset's columns, of :data:`FROM_TRL` and of
            :data:`..completion.EXTRAS` as keyword arguments, one entry per completion, and returns
            one number per completion (None: not scored), or, under ``per_path``, one per path.
        name: for messages and logs; the function's by default.
        schedule: steps outside of it get 0.0.
        per_path: whether a list of numbers, one for each path, may stand for one completion.
        seconds: for one batch, where the main thread calls; a function that takes longer ends the
            run.

    Attributes:
        path_values: of the last call, for each completion the values of its paths, None where the
            function gave one number.

    Raises:
        RewardError: on a call, where the function fails or returns something else.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        schedule: Schedule | None = None,
        per_path: bool = False,
        seconds: float = SECONDS,
    ):
        self.function = function
        self.__name__ = name or get_callable_name(function)
        self.schedule = schedule
        self.per_path = per_path
        self.seconds = seconds
        self.path_values: list[list[float] | None] = []
        self._takes = _parameters(self.__name__, function)
        self._last: tuple[Any, list[Any]] | None = None

    def check(self, given: Iterable[str]) -> None:
        """Whether the function can be called with arguments of these names.

        Raises:
            RewardError: it needs others.
        """
        known = set(given)
        lacking = [name for name, needed in self._takes.items() if needed and name not in known]
        if lacking:
            raise RewardError(
                f"reward {self.__name__} takes {', '.join(lacking)}, which is neither a column of "
                f"the dataset nor given by the trainer; there are {', '.join(sorted(known))}. "
                "Rename the argument or the column, or give it a default"
            )
        wanted = getattr(self.function, "columns", ())
        if wanted and not known & set(wanted):
            raise RewardError(
                f"reward {self.__name__} reads the column {' or '.join(wanted)}, which the dataset "
                f"lacks; there are {', '.join(sorted(known))}. Name it with --answer_column"
            )

    def __call__(self, **given: Any) -> list[float | None]:
        count = len(given["completions"])
        state = given.get("trainer_state")
        if self.schedule and state is not None and not self.schedule.on(state.global_step):
            self.path_values = [None] * count
            return [0.0] * count
        values = self.values(**given)
        self.path_values = [one if isinstance(one, list) else None for one in values]
        return [
            (sum(one) / len(one) if one else 0.0) if isinstance(one, list) else one
            for one in values
        ]

    def values(self, **given: Any) -> list[Any]:
        """Checked values, whatever the schedule; the function runs once on a batch."""
        completions = given["completions"]
        if self._last is None or self._last[0] is not completions:
            found = self._run(given)
            self._last = (completions, self._checked(found, given))
        return list(self._last[1])

    def _run(self, given: dict[str, Any]) -> Any:
        if "**" not in self._takes:
            given = {name: value for name, value in given.items() if name in self._takes}
        try:
            with _limit(self.seconds):
                found = self.function(**given)
                return asyncio.run(found) if inspect.iscoroutine(found) else found
        except _TooLong as error:
            raise RewardError(
                f"reward {self.__name__} took over {self.seconds:g} s for one batch; bound its "
                "work, or raise --reward_seconds"
            ) from error
        except RewardError:
            raise
        except (Exception, SystemExit) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise RewardError(
                f"reward {self.__name__} raised {type(error).__name__}: {_line(error)} "
                f"({where.filename}:{where.lineno}); a reward returns a number for any completion"
            ) from error

    def _checked(self, found: Any, given: dict[str, Any]) -> list[Any]:
        count = len(given["completions"])
        if hasattr(found, "tolist"):
            found = found.tolist()
        if not isinstance(found, list | tuple):
            raise RewardError(
                f"reward {self.__name__} returned {_kind(found)}; it returns a list with one "
                f"number for each of the {count} completions"
            )
        if len(found) != count:
            raise RewardError(
                f"reward {self.__name__} returned {len(found)} values for {count} completions; "
                "it returns one for each"
            )
        spans = given.get("path_spans")
        return [self._value(i, one, spans[i] if spans else None) for i, one in enumerate(found)]

    def _value(self, i: int, value: Any, spans: list[Any] | None) -> Any:
        if value is None:
            return None
        if hasattr(value, "tolist"):
            value = value.tolist()
        if not isinstance(value, list | tuple):
            return self._number(i, value)
        if not self.per_path:
            raise RewardError(
                f"reward {self.__name__} returned a list for completion {i}: one value per path "
                "needs --path_advantages"
            )
        if spans is None or len(value) != len(spans):
            raise RewardError(
                f"reward {self.__name__} returned {len(value)} values for the {len(spans or ())} "
                f"paths of completion {i}; it returns one for each of path_spans, or one number"
            )
        return [self._number(i, one) for one in value]

    def _number(self, i: int, value: Any) -> float:
        if not isinstance(value, numbers.Real):
            raise RewardError(
                f"reward {self.__name__} returned {_kind(value)} for completion {i}; it returns "
                "numbers, or None where it does not apply"
            )
        if not math.isfinite(value):
            raise RewardError(
                f"reward {self.__name__} returned {float(value)} for completion {i}; it returns "
                "finite numbers, or None where it does not apply"
            )
        return float(value)


def _parameters(name: str, function: Callable[..., Any]) -> dict[str, bool]:
    """Names of the arguments, and whether each must be given; ``**`` takes any."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"reward {name} has no signature that can be read; wrap it in a def"
        ) from error
    takes: dict[str, bool] = {}
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes["**"] = False
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            raise RewardError(
                f"reward {name} takes {parameter.name} by position; rewards are called with "
                "keyword arguments: def reward(completions, **kwargs)"
            )
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            takes[parameter.name] = parameter.default is parameter.empty
    if not takes:
        raise RewardError(
            f"reward {name} takes no arguments; write def reward(completions, **kwargs)"
        )
    return takes


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise :class:`_TooLong` after ``seconds``; only a main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _kind(value: Any) -> str:
    return "None" if value is None else f"{_line(repr(value))} ({type(value).__name__})"


def _line(text: object, most: int = 200) -> str:
    words = " ".join(str(text).split())
    return words if len(words) <= most else words[:most] + " …"
