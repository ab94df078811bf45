"""What the soak counts: a server that lies is caught."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sglang_multiverse.stress.bodies import Speech
from sglang_multiverse.stress.soak import Result, Soak

from .liar import final, serving

GOOD = [5, 6, 7, 8]


class Liar:
    """Answers ``GOOD`` to a request alone; at once, every third time, what ``fault`` says."""

    def __init__(self, fault: str | None, gap: float = 1.0):
        self.fault = fault
        self.gap = gap
        self.count = 0

    def __call__(self, path: str, body: Any) -> tuple[int, Any]:
        if path.startswith("/v1/loads"):
            used = 3 if self.fault == "leak" else 0
            load = {"num_running_reqs": 0, "num_waiting_reqs": 0, "num_used_tokens": used}
            return 200, {"loads": [load]}
        if path != "/generate":
            return 200, {}
        if "rid" in body:
            self.count += 1
            time.sleep(0.02)
            if self.count % 3 == 0:
                if self.fault == "error":
                    return 500, {"error": "no reason"}
                if self.fault == "differs":
                    return 200, final([5, 6, 9])
                if self.fault == "abort":
                    return 200, final([5], finish_reason={"type": "abort"})
        tops = [[[-0.1, token, None], [-0.1 - self.gap, 9, None]] for token in GOOD]
        return 200, final(GOOD, output_top_logprobs=tops, multiverse_forks=1, num_retractions=2)


def soak(speech: Speech, liar: Liar) -> Result:
    plain = Speech(speech.tokenizer, speech.dialect, None)
    with serving(liar) as url:
        return Soak(plain, requests=60, concurrency=8, distinct=5).run(url)


def test_a_server_that_keeps_its_word(speech: Speech) -> None:
    result = soak(speech, Liar(None))
    assert (result.lost, result.wrong, result.ties, result.leaked_tokens) == (0, 0, 0, 0)
    assert result.forks == 60
    assert result.retractions == 120
    assert 0.02 <= result.p50_s <= result.p95_s
    assert result.found == []


@pytest.mark.parametrize(
    ("fault", "gap", "counted"),
    [
        ("error", 1.0, "lost"),
        ("abort", 1.0, "lost"),
        ("differs", 1.0, "wrong"),
        ("differs", 5e-5, "ties"),
        ("leak", 1.0, "leaked_tokens"),
    ],
)
def test_a_fault_is_counted_once(speech: Speech, fault: str, gap: float, counted: str) -> None:
    result = soak(speech, Liar(fault, gap))
    counts = {name: getattr(result, name) for name in ("lost", "wrong", "ties", "leaked_tokens")}
    nonzero = [name for name, count in counts.items() if count]
    assert nonzero == [counted]
    if counted not in ("leaked_tokens", "ties"):
        assert len(result.found) == counts[counted]
