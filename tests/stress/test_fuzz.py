"""Rounds against a server that refuses everything, and against one that has faults."""

from __future__ import annotations

from typing import Any

from sglang_multiverse.stress.bodies import Speech
from sglang_multiverse.stress.fuzz import Fuzz, Report
from sglang_multiverse.tiny import MODEL_DIR

from .liar import final, serving


class Refusing:
    """Answers the probe and its controls, refuses everything else; ``fails`` are paths that get
    HTTP 500."""

    def __init__(self, *fails: str):
        self.fails = fails

    def __call__(self, path: str, body: Any) -> tuple[int, Any]:
        if path in self.fails:
            return 500, {"error": "no reason"}
        if path.startswith("/v1/loads"):
            load = {"num_running_reqs": 0, "num_waiting_reqs": 0, "num_used_tokens": 0}
            return 200, {"loads": [load]}
        if path == "/generate":
            probe = isinstance(body, dict) and body.get("return_logprob") is True
            return (200, final([4])) if probe and "rid" not in body else (400, {})
        refused = path.startswith("/v1/") and path != "/v1/models"
        return (400, {}) if refused else (200, {})


def fuzz(speech: Speech, *fails: str) -> Report:
    with serving(Refusing(*fails)) as url:
        return Fuzz(MODEL_DIR, speech, seed=1, minutes=0.15, url=url).run()


def test_nothing_is_found_where_everything_is_refused(speech: Speech) -> None:
    report = fuzz(speech)
    assert report.found == []
    assert report.requests > 20
    assert report.kinds["generate soup"].keys() <= {"400", "hung up"}


def test_a_fault_is_found_with_what_makes_it_again(speech: Speech) -> None:
    report = fuzz(speech, "/v1/score", "/v1/completions", "/v1/chat/completions")
    assert report.violations > 0
    for one in report.found:
        assert one["what"] == "no server error without a reason"
        assert (one["seed"], one["server"]) == (1, 0)
        (call,) = one["calls"]
        assert call["path"].startswith("/v1/")
        made = [
            c.told()
            for chain in Fuzz(MODEL_DIR, speech, seed=1, minutes=1).calls(0, one["round"])
            for c in chain
        ]
        assert call in made
