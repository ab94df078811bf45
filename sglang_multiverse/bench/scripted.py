"""A custom logit processor that has a served model write scripted texts at next to no cost.

The scripts lie in a file on the server's machine, so that a request carries a name and two numbers.
It works on stock SGLang too, where a request writes a part of a script from an offset on. With
``log`` it notes when each forward sampled what: the times between forwards are the step times, the
scheduler's Python included.

The server imports this module by name, and must run with ``--enable-custom-logit-processor``.
Subclasses SGLang's public ``CustomLogitProcessor``. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

from ..stress.scripted import key_of, starts
from .shapes import Script


def write_scripts(scripts: Sequence[Script], path: Path) -> None:
    """Put ``scripts`` where :class:`Scripted` finds them, under their index."""
    rows = [
        {"ids": script.ids, "starts": starts(script.trace), "eos": script.ids[-1]}
        for script in scripts
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")


def params(
    path: Path, index: int, *, shift: int = 0, log: Path | None = None, tag: int = 0
) -> dict[str, Any]:
    """``custom_params`` of a request that writes script ``index`` of the file.

    Args:
        shift: offset in the script of a row's first token: 0 where the prompt is the script's.
        log: a file to note forwards in; see :func:`read_log`.
        tag: number of the request in that log.
    """
    # The texts know no turns: an earlier answer in a prompt is structure wherever it stands.
    structure = {"structure": "all"}
    found: dict[str, Any] = {"bench": [str(path), index, shift], "multiverse": structure}
    if log is not None:
        found["bench_log"] = [str(log), tag]
    return found


class Scripted(CustomLogitProcessor):  # type: ignore[misc]
    """Forces the next token of the script on each row whose ``custom_params`` name one."""

    def __call__(self, logits: Any, custom_param_list: Any) -> Any:
        log: IO[str] | None = None
        sampled: list[tuple[int, int]] = []
        tokens: list[int] = []
        for params in custom_param_list:
            token, offset = _next(params)
            tokens.append(token)
            if "bench_log" in params:
                log = _open(params["bench_log"][0])
                sampled.append((params["bench_log"][1], offset))
        # One token per row, as cheap as it gets.
        index = logits.new_tensor(tokens, dtype=int).unsqueeze(1)
        logits.fill_(float("-inf")).scatter_(1, index, 0.0)
        if log is not None:
            log.write(
                json.dumps([time.perf_counter(), time.thread_time(), len(tokens), sampled]) + "\n"
            )
            log.flush()
        return logits


def _next(params: dict[str, Any]) -> tuple[int, int]:
    """The token that the row samples, and its offset in the script; -1 for a row that only writes
    KV."""
    request = params["__req__"]
    path, index, shift = params["bench"]
    script = _scripts(path)[index]
    base = request.__dict__.get("bench_base")
    if base is None:
        base = request.bench_base = _base(request, script, shift)
    if base is _WRITES_ONLY:
        return script["eos"], -1
    # With overlap the newest token is not in the request yet; the row's length is.
    offset = base + request.kv.kv_committed_len
    ids = script["ids"]
    return (ids[offset] if offset < len(ids) else script["eos"]), offset


_WRITES_ONLY = -(1 << 60)


def _base(request: Any, script: dict[str, Any], shift: int) -> int:
    """Offset in the script minus index in the row, of the row's own tokens."""
    mark = request.__dict__.get("multiverse")
    if mark is None:
        return shift
    node = getattr(mark, "node", None)
    if node is None:
        return _WRITES_ONLY
    if node.parent is None:
        return shift
    return int(script["starts"][key_of(node)]) - int(node.base)


@functools.lru_cache(maxsize=4)
def _scripts(path: str) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        rows: list[dict[str, Any]] = json.load(file)
    return rows


@functools.lru_cache(maxsize=4)
def _open(path: str) -> IO[str]:
    return open(path, "a", encoding="utf-8")


@dataclass(frozen=True)
class Forward:
    """One forward pass, as the log has it.

    Attributes:
        at: when its tokens were about to be sampled, seconds on the machine's monotonic clock.
        cpu: CPU seconds of the scheduler's thread so far; other work on the machine does not count.
        rows: scripted rows in it.
        sampled: ``(request's tag, offset in its script)`` of each logged row, offset -1 for a row
            that only writes KV.
    """

    at: float
    cpu: float
    rows: int
    sampled: tuple[tuple[int, int], ...]


def read_log(path: Path) -> list[Forward]:
    """The forwards noted in ``path``, in order; none if there is no such file."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        at, cpu, rows, sampled = json.loads(line)
        found.append(Forward(at, cpu, rows, tuple((tag, offset) for tag, offset in sampled)))
    return found
