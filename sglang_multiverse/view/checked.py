"""Events as somebody sent them, brought into one form that every reader reads alike.

A file of events may come from anywhere, and Python and a browser read an odd value each in its own
way: what is one thing for both stays, what is not is refused, with its event and field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from .events import Event

#: The largest position, count of tokens and time. Sums of them are exact in a browser, too.
LARGEST = 10**12

KINDS = ("text", "fork", "close", "join", "end")

#: Figures that the page draws as numbers.
_DRAWN = ("multiverse_net_parallelism", "multiverse_forward_steps")


class EventError(ValueError):
    """Events that make no timeline; ``str()`` names the event and what is wrong with it."""


def checked(events: Sequence[Any]) -> list[Event]:
    """The events, each with the fields of its kind and no others.

    Whole numbers may be written as ``3.0``, a label may be null. Times stay where every event has
    one, for an axis of time has no place for the others. Figures that are no single number or word
    are left out.

    Raises:
        EventError: a field is missing or holds something else than :mod:`.events` says.
    """
    found = []
    for number, event in enumerate(events, start=1):
        try:
            found.append(_checked(event))
        except _Wrong as wrong:
            raise EventError(f"event {number}: {wrong}") from None
    if not all("t" in event for event in found):
        for event in found:
            event.pop("t", None)
    return found


_MISSING = object()


class _Wrong(Exception):
    def __init__(self, name: str, value: Any, wanted: str):
        super().__init__(f"{name} is {said(value)}, not {wanted}")


def _checked(event: Any) -> Event:
    if not isinstance(event, dict):
        raise _Wrong("it", event, "an object")
    kind = event.get("kind", _MISSING)
    if kind not in KINDS:
        raise _Wrong("kind", kind, f"one of {', '.join(KINDS)}")
    position = _whole(event, "position")
    found: Event = {"kind": kind, "path": _text(event, "path"), "position": position}
    if event.get("t") is not None:
        found["t"] = _time(event["t"])
    if kind == "text":
        found |= {"tokens": _whole(event, "tokens"), "text": _text(event, "text")}
    elif kind == "fork":
        found["paths"] = _paths(found["path"], event.get("paths", _MISSING))
    elif kind == "end":
        if event.get("finish_reason") is not None:
            found["finish_reason"] = _text(event, "finish_reason")
        if (figures := event.get("figures")) is not None:
            found["figures"] = _figures(figures)
    return found


def _whole(event: Event, name: str) -> int:
    value = event.get(name, _MISSING)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
        raise _Wrong(name, value, f"a whole number from 0 to {LARGEST:,}")
    return value


def _text(event: Event, name: str) -> str:
    value = event.get(name, _MISSING)
    if not isinstance(value, str):
        raise _Wrong(name, value, "text")
    return value


def _number(value: Any) -> bool:
    """Whether it is a number within bounds: not NaN, not infinite, and no boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -float(LARGEST) <= value <= float(LARGEST)


def _time(value: Any) -> float:
    if not _number(value) or value < 0:
        raise _Wrong("t", value, f"seconds from 0 to {LARGEST:,}")
    return float(value)


def _paths(around: str, paths: Any) -> list[dict[str, str]]:
    if not isinstance(paths, list) or not paths:
        raise _Wrong("paths", paths, "a list of one path or more")
    prefix = f"{around}." if around else ""
    own = re.compile(re.escape(prefix) + r"[0-9]+\.[0-9]+")
    found = []
    for i, one in enumerate(paths, start=1):
        if not isinstance(one, dict):
            raise _Wrong(f"path {i} of paths", one, "an object")
        name, label = one.get("path"), one.get("label")
        if not isinstance(name, str) or not own.fullmatch(name):
            raise _Wrong(f"path {i} of paths", name, f'a name as "{prefix}1.{i}"')
        if label is not None and not isinstance(label, str):
            raise _Wrong(f"the label of path {i} of paths", label, "text")
        found.append({"path": name, "label": label or ""})
    return found


def _figures(figures: Any) -> dict[str, float | str]:
    if not isinstance(figures, dict):
        raise _Wrong("figures", figures, "an object")
    found = {}
    for name, value in figures.items():
        drawn = name in _DRAWN and value is not None
        if drawn or (isinstance(value, int | float) and not isinstance(value, bool)):
            if not _number(value):
                raise _Wrong(f"{name} of figures", value, f"a number up to {LARGEST:,}")
            found[name] = value
        elif isinstance(value, str):
            found[name] = value
    return found


def said(value: Any) -> str:
    """A value as JSON writes it, cut to fit a line."""
    if value is _MISSING:
        return "missing"
    try:
        text = json.dumps(value, default=repr)
    except (ValueError, RecursionError):  # thousands of digits, or of brackets
        text = f"some {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:40]}…"


__all__ = ["KINDS", "LARGEST", "EventError", "checked", "said"]
