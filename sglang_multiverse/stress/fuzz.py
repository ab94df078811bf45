"""Rounds of random requests at servers of random settings, and what did not hold."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..server import Server, ServerError
from . import controls, invariants
from .bodies import Bodies, Speech
from .invariants import Probe, Violation
from .settings import Setting, setting
from .wire import Answer, Call, Wire

#: Requests of one round; each is as likely.
SIZES = (1, 3, 8, 16, 32, 64)
#: Seconds a round may work before what still runs is aborted.
WIND_UP = 30.0
#: Seconds to wait for any one answer, aborts and the end of pauses included.
PATIENCE = 180.0
Tell = Callable[[str], None]


@dataclass
class Report:
    """What ``multiverse fuzz`` found.

    Attributes:
        found: each violation with its seed, server and round, to be made again.
        kinds: outcomes by kind of request.
        seconds: of requests; starting servers is not counted.
    """

    seed: int
    found: list[dict[str, Any]] = field(default_factory=list)
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    servers: list[str] = field(default_factory=list)
    rounds: int = 0
    requests: int = 0
    forks: int = 0
    seconds: float = 0.0

    @property
    def violations(self) -> int:
        return len(self.found)

    def as_json(self) -> dict[str, Any]:
        kinds = {kind: dict(sorted(n.items())) for kind, n in sorted(self.kinds.items())}
        return {"violations": self.violations, **asdict(self), "kinds": kinds}


def outcome(answer: Answer) -> str:
    """Name of what came of a request, for the counts."""
    if answer.left:
        return "hung up"
    if answer.fault is not None or answer.status is None:
        return "no answer"
    if answer.status != 200:
        return f"{answer.status} unhandled" if invariants.unhandled(answer) else str(answer.status)
    reasons = [reason for reason in _reasons(answer) if reason]
    return f"200 {reasons[0]}" if reasons else "200"


def _metas(answer: Answer) -> list[dict[str, Any]]:
    try:
        values = answer.events if answer.call.stream else [answer.json()]
    except ValueError:
        return []
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return [one["meta_info"] for one in flat if isinstance(one, dict) and "meta_info" in one]


def _reasons(answer: Answer) -> list[Any]:
    if answer.call.path == "/generate":
        return [(meta.get("finish_reason") or {}).get("type") for meta in _metas(answer)][::-1]
    content = None
    if answer.call.path.startswith(("/v1/chat", "/v1/completions")):
        content = invariants.openai_reason(answer)
    return [content] if content else []


class Fuzz:
    """Attacks servers until the minutes are over.

    Args:
        model: folder of the checkpoint.
        speech: what bodies are made of.
        url: attack this server alone; its log is not seen.
        plugin: serve with the plugin; without it, what stock SGLang does is shown.
        tell: called with one line on what is under way.
    """

    def __init__(
        self,
        model: Path,
        speech: Speech,
        *,
        seed: int,
        minutes: float,
        url: str | None = None,
        plugin: bool = True,
        tell: Tell = lambda line: None,
    ):
        self.model = model
        self.speech = speech
        self.seed = seed
        self.minutes = minutes
        self.url = url
        self.plugin = plugin
        self.tell = tell
        self.report = Report(seed)
        self._suspects: list[Call] = []

    def run(self, *, server: int = 0, round_: int | None = None) -> Report:
        """Attack; with ``round_`` make that round of ``server`` alone."""
        if self.url is not None:
            self.report.servers.append(self.url)
            self._attack(server, self.url, None, self.minutes * 60, round_)
            return self.report
        count = 1 if round_ is not None else max(1, round(self.minutes / 2))
        for number in range(server, server + count):
            left = self.minutes * 60 / count
            chosen = setting(self.seed, number)
            self.report.servers.append(str(chosen))
            first = 0
            while left > 0:
                begun = self.report.seconds
                first = self._serve(number, chosen, left, round_, first)
                left -= max(self.report.seconds - begun, 1.0)
                if first < 0:
                    break
        return self.report

    def _serve(
        self, number: int, chosen: Setting, seconds: float, round_: int | None, first: int
    ) -> int:
        """One life of a server; the round to go on with if it died early, else -1."""
        waiting = self.tell
        try:
            with chosen.serve(
                self.model,
                plugin=self.plugin,
                on_wait=lambda s: waiting(f"starting server {number}: {chosen} … {s:.0f} s"),
            ) as server:
                if self._suspects:
                    self._isolate(number, server)
                    if not server.alive:
                        return first
                return self._attack(number, server.url, server, seconds, round_, first)
        except (ServerError, RuntimeError) as error:
            self._note(number, None, [Violation("the server starts", str(error)[-3000:])])
            return -1

    def _attack(
        self,
        number: int,
        url: str,
        server: Server | None,
        seconds: float,
        round_: int | None,
        first: int = 0,
    ) -> int:
        """Rounds from ``first`` on; the next one if the server died, else -1."""
        wire = Wire(url, timeout=PATIENCE)
        body = {
            "input_ids": self.speech.chat_ids(str(self.speech.questions[0])),
            "sampling_params": {"max_new_tokens": 60, "temperature": 0},
            "return_logprob": True,
        }
        probe = Probe(wire, body)
        until = time.monotonic() + seconds
        this = first if round_ is None else round_
        while time.monotonic() < until:
            begun = time.monotonic()
            seen = len(server.log()) if server is not None else 0
            answers = self._round(wire, number, this)
            self._count(answers)
            found = self._judge(wire, answers, server)
            lives = not found or found[0].what != "the server lives"
            if lives:
                found += invariants.at_rest(wire, probe)
            if server is not None:
                found += invariants.of_log(server.log()[seen:])
                lives = lives and server.alive
            self._note(number, this, found)
            self.report.rounds += 1
            self.report.seconds += time.monotonic() - begun
            this += 1
            if not lives:
                return this if server is not None and round_ is None else -1
            if round_ is not None:
                break
            self.tell(
                f"server {number}, round {this}: {self.report.requests} requests, "
                f"{self.report.violations} violations"
            )
        return -1

    def calls(self, number: int, this: int) -> list[list[Call]]:
        """The chains of round ``this`` of server ``number``: a function of the seed."""
        seed = f"{self.seed}.{number}.{this}"
        rng = random.Random(seed)
        seconds = rng.uniform(0.5, 6.0)
        bodies = Bodies(self.speech, seed)
        asked: list[list[Call]] = [[call] for call in bodies.make(rng.choice(SIZES), seconds)]
        return asked + controls.chains(rng, bodies.rids, seconds, str(self.model))

    def _round(self, wire: Wire, number: int, this: int) -> list[Answer]:
        return wire.run(self.calls(number, this), wind_up=WIND_UP, finals=controls.FINALS)

    def _count(self, answers: list[Answer]) -> None:
        self.report.requests += len(answers)
        for answer in answers:
            counts = self.report.kinds.setdefault(answer.call.kind, Counter())
            counts[outcome(answer)] += 1
            finals = _metas(answer)[-1:] if answer.call.stream else _metas(answer)
            self.report.forks += sum(meta.get("multiverse_forks") or 0 for meta in finals)

    def _alive(self, wire: Wire, server: Server | None) -> bool:
        """SGLang's processes take a moment to end after a scheduler has."""
        time.sleep(8.0)
        return wire.ask("/health").status is not None and (server is None or server.alive)

    def _judge(self, wire: Wire, answers: list[Answer], server: Server | None) -> list[Violation]:
        lost = [answer for answer in answers if answer.fault is not None]
        if lost and not self._alive(wire, server):
            self._suspects = [answer.call for answer in lost]
            told = [call.told() for call in self._suspects]
            words = "its log is elsewhere" if server is None else server.last_words(40)
            return [Violation("the server lives", words, told)]
        found = [one for answer in answers for one in invariants.of_answer(answer)]
        return found + invariants.of_twins(answers)

    def _isolate(self, number: int, server: Server) -> None:
        """Send what was under way when the last server died again, one by one."""
        suspects, self._suspects = self._suspects, []
        wire = Wire(server.url, timeout=15.0)
        unlikely = ("scripted", "soup", "plain", "follow-up")
        suspects.sort(key=lambda call: any(word in call.kind for word in unlikely))
        for call in suspects:
            call.at, call.leave = 0.0, None
            wire.run([[call]], wind_up=8.0, finals=controls.FINALS)
            time.sleep(0.3)
            if not server.alive:
                told = [call.told()]
                self._note(
                    number, None, [Violation("one request ends it", server.last_words(40), told)]
                )
                return

    def _note(self, number: int, this: int | None, found: list[Violation]) -> None:
        place: dict[str, Any] = {"seed": self.seed, "server": number, "round": this}
        place["flags"] = self.report.servers[-1]
        for one in found:
            self.report.found.append({**place, **asdict(one)})
            self.tell(f"violation: {one.what}: {one.detail[:200]}")
