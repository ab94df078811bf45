"""A timeline as a Chrome trace, which Perfetto (ui.perfetto.dev) and ``chrome://tracing`` open."""

from __future__ import annotations

import json
from typing import Any

from .geometry import rows
from .lanes import Lane, Timeline

#: Microseconds that stand for one position, where a trace has no times.
POSITION = 1000


def perfetto(timeline: Timeline, title: str) -> str:
    """JSON in the trace event format: one thread for each lane, one slice for each piece.

    Times are those of the server where the events have them, else one millisecond a position.
    """
    order = rows(timeline).row
    lanes = sorted(timeline.lanes, key=lambda lane: order[lane.path])
    thread = {lane.path: number for number, lane in enumerate(lanes, start=1)}
    events: list[dict[str, Any]] = [_named("process_name", 0, title)]
    for lane in lanes:
        name = f"{lane.name}: {lane.label}" if lane.path else "trunk"
        events.append(_named("thread_name", thread[lane.path], name))
        order_of = {"sort_index": thread[lane.path]}
        events.append(
            {
                "ph": "M",
                "pid": 1,
                "tid": thread[lane.path],
                "name": "thread_sort_index",
                "args": order_of,
            }
        )
        events += _slices(lane, thread[lane.path], timeline)
        for fork in lane.forks:
            for one in fork.lanes:
                events += _arrow(timeline, lane, one, thread, fork.position, fork.time)
    unit = "seconds" if timeline.timed else f"positions, {POSITION // 1000} ms each"
    said = {"unit": unit, "tokens": timeline.tokens, "critical_path": timeline.critical_path}
    return (
        json.dumps({"traceEvents": events, "otherData": timeline.figures | said}, allow_nan=False)
        + "\n"
    )


def _named(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": 1, "tid": thread, "name": kind, "args": {"name": name}}


def _slices(lane: Lane, thread: int, timeline: Timeline) -> list[dict[str, Any]]:
    found = []
    for piece in lane.pieces:
        if timeline.timed:
            start, end = piece.begun or 0.0, piece.ended or piece.begun or 0.0
            begun, taken = 1e6 * start, 1e6 * (end - start)
        else:
            begun = float(POSITION * (piece.position - timeline.base))
            taken = float(POSITION * piece.tokens)
        args = {"text": piece.text, "tokens": piece.tokens, "position": piece.position}
        name = piece.role if piece.role != "text" else (lane.label or lane.path or "text")
        args |= {"critical": lane.critical, "path": lane.path}
        slice_ = {"ph": "X", "pid": 1, "tid": thread, "ts": begun, "dur": taken}
        found.append(slice_ | {"name": name, "cat": piece.role, "args": args})
    return found


def _arrow(
    timeline: Timeline,
    lane: Lane,
    path: Lane,
    thread: dict[str, int],
    position: int,
    time: float | None,
) -> list[dict[str, Any]]:
    """From a fork to one of its paths."""
    at = 1e6 * (time or 0.0) if timeline.timed else POSITION * (position - timeline.base)
    common = {"pid": 1, "name": "fork", "cat": "fork", "id": thread[path.path], "ts": at}
    return [
        common | {"ph": "s", "tid": thread[lane.path]},
        common | {"ph": "f", "bp": "e", "tid": thread[path.path]},
    ]


__all__ = ["POSITION", "perfetto"]
