"""Calls to a server's controls while it works: aborts, pauses, flushes, updates, questions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from .hostile import WRONG
from .wire import Call

#: What a round ends with: nothing stays paused, nothing runs on.
FINALS = (
    Call("continue", "/continue_generation", {}),
    Call("abort all", "/abort_request", {"abort_all": True}),
)
MODES = ("abort", "retract", "in_place")
_LOOKS = (
    *("/v1/loads", "/v1/loads?include=all", "/server_info", "/get_server_info", "/model_info"),
    *("/v1/models", "/health", "/metrics"),
)


def chains(rng: random.Random, rids: Sequence[str], seconds: float, model: str) -> list[list[Call]]:
    """Chains of control calls begun within ``seconds``; at most one pauses.

    Args:
        rids: request ids of the round, to abort some.
        model: folder of the weights being served, to load them again.
    """
    found: list[list[Call]] = []
    for _ in range(rng.choice((0, 0, 1, 3, 8))):
        found.append([_abort(rng, rids)])
    for _ in range(rng.randint(0, 3)):
        found.append([Call("look", rng.choice(_LOOKS), method="GET")])
    if rng.random() < 0.2:
        found.append([Call("flush", "/flush_cache", {})])
    if rng.random() < 0.1:
        found.append([_update(model)])
    for chain in found:
        chain[0].at = rng.random() * seconds
    if rng.random() < 0.4:
        found.append(_pause(rng, seconds, model))
    return found


def _abort(rng: random.Random, rids: Sequence[str]) -> Call:
    roll = rng.random()
    body: Any
    if roll < 0.6 and rids:
        body = {"rid": rng.choice(rids)}
    elif roll < 0.7:
        body = {"abort_all": True}
    else:
        field = rng.choice(("rid", "abort_all", "abort_message"))
        body = {"rid": "nobody", field: rng.choice(WRONG)}
    return Call("abort", "/abort_request", body)


def _update(model: str, status: int | None = None) -> Call:
    body = {"model_path": model, "flush_cache": True}
    return Call("update weights", "/update_weights_from_disk", body, status=status)


def _pause(rng: random.Random, seconds: float, model: str) -> list[Call]:
    """Pause, do what is done while paused, continue. After a pause that retracts, nothing holds KV:
    the cache must flush and weights must load."""
    mode = rng.choice((*MODES, "retract", rng.choice(("", "fast", None, 7))))
    begin = Call(f"pause {mode}", "/pause_generation", {"mode": mode}, at=rng.random() * seconds)
    must = 200 if mode == "retract" else None
    between = (
        Call(f"flush in pause {mode}", "/flush_cache", {}, status=must),
        _update(model, must),
        Call("look", "/v1/loads", method="GET"),
        Call("pause again", "/pause_generation", {"mode": mode}),
    )
    done = rng.sample(between, rng.choice((0, 1, 1, 2)))
    end = Call("continue", "/continue_generation", {}, at=rng.choice((0.0, 0.3, 1.5)))
    return [begin, *done, end]
