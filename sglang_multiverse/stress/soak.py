"""Many requests at once on a tight pool; every answer must be the answer alone."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ..tiny import task
from . import invariants
from .bodies import Speech
from .settings import Setting
from .wire import Answer, Call, Wire

#: A greedy choice between logits closer than this may go either way: batches of another
#: composition round otherwise.
TIE = 1e-4
#: Tokens the tiny model's longest answers take.
MAX_NEW_TOKENS = 700
#: One request in so many is aborted.
ABORTED = 10
PATIENCE = 900.0
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """A distinct request and its answer alone.

    Attributes:
        kind: ``forking``, ``plain`` or ``scripted``.
        forced: what the answer must be, where a script decides it.
        alone: token ids of the answer alone.
    """

    kind: str
    body: dict[str, Any]
    forced: list[int] | None = None
    alone: tuple[int, ...] = ()


@dataclass
class Result:
    """What ``multiverse soak`` prints.

    Attributes:
        lost: requests without an answer, or with an error.
        wrong: answers that are not the answer alone, ties left out.
        ties: answers that part from the answer alone where two logits are within :data:`TIE`.
        leaked_tokens: KV tokens in use when nothing runs.
        aborted: answers that ended by an abort that was asked for.
        p50_s, p95_s: latency of requests that were not aborted.
        retractions: times a request lost its KV and was computed anew.
    """

    requests: int
    concurrency: int
    distinct: int
    lost: int = 0
    wrong: int = 0
    ties: int = 0
    leaked_tokens: int = 0
    aborted: int = 0
    forks: int = 0
    retractions: int = 0
    tokens: int = 0
    p50_s: float = 0.0
    p95_s: float = 0.0
    seconds: float = 0.0
    found: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Soak:
    """Makes the requests and compares.

    Args:
        requests: how many to make.
        concurrency: how many are under way at a time.
        distinct: how many different ones there are; each is first asked alone.
    """

    def __init__(
        self,
        speech: Speech,
        *,
        requests: int,
        concurrency: int,
        seed: int = 0,
        distinct: int = 48,
        tell: Tell = lambda line: None,
    ):
        self.speech = speech
        self.concurrency = concurrency
        self.rng = random.Random(f"soak {seed}")
        self.tell = tell
        self.result = Result(requests, concurrency, min(distinct, requests))

    def run_own(self, model: Path, pool: int) -> Result:
        """On a server of ``model`` with ``pool`` KV tokens, SGLang's memory checks on."""
        chosen = Setting((f"--max-total-tokens={pool}", "--schedule-conservativeness=0.02"))
        with chosen.serve(
            model, on_wait=lambda s: self.tell(f"starting the server … {s:.0f} s")
        ) as server:
            result = self.run(server.url)
            for one in invariants.of_log(server.log()):
                result.lost += 1
                result.found.append(asdict(one))
            return result

    def run(self, url: str) -> Result:
        """On the server at ``url``."""
        wire = Wire(url, timeout=PATIENCE)
        cases = [self._alone(wire, case) for case in self._cases()]
        self.tell(f"{len(cases)} answers alone; now {self.result.requests} requests at once")
        refused = invariants.flush(wire)
        if refused is not None:
            self._find("the cache of an idle server flushes", refused)
        begun = time.perf_counter()
        asked = asyncio.run(self._all(wire, cases))
        self.result.seconds = round(time.perf_counter() - begun, 2)
        for case, answer, struck in asked:
            self._compare(wire, case, answer, struck)
        times = sorted(answer.seconds for _, answer, struck in asked if not struck)
        if times:
            self.result.p50_s = round(times[len(times) // 2], 3)
            self.result.p95_s = round(times[min(len(times) - 1, len(times) * 95 // 100)], 3)
        used = invariants.used_tokens(wire)
        if used is None:
            self.result.lost += 1
            self._find("the server comes to rest", f"requests run after {invariants.REST:.0f} s")
        self.result.leaked_tokens = used or 0
        return self.result

    def _cases(self) -> list[Case]:
        speech, rng = self.speech, self.rng
        problems = task.generate(rng.randrange(10**6), "test")
        cases: list[Case] = []
        for _ in range(self.result.distinct):
            roll = rng.random()
            if roll < 0.4 and speech.processor is not None:
                script, cut = speech.texts.make(
                    rng.randrange(10**9), depth=rng.randint(1, 3), blocks=rng.choice((1, 2))
                )
                custom = {"script": script, "eos": speech.texts.eos}
                params = {"max_new_tokens": len(script) - cut + 1, "custom_params": custom}
                body = {"input_ids": script[:cut], "custom_logit_processor": speech.processor}
                forced = [*script[cut:], speech.texts.eos]
                cases.append(self._case("scripted", body, params, forced))
                continue
            mode: task.Mode = "parallel" if roll < 0.8 else "sequential"
            ids = speech.chat_ids(task.prompt(next(problems), mode))
            kind = "forking" if mode == "parallel" else "plain"
            cases.append(self._case(kind, {"input_ids": ids}, {"max_new_tokens": MAX_NEW_TOKENS}))
        return cases

    @staticmethod
    def _case(
        kind: str, body: dict[str, Any], params: dict[str, Any], forced: list[int] | None = None
    ) -> Case:
        return Case(kind, {**body, "sampling_params": {"temperature": 0, **params}}, forced)

    def _alone(self, wire: Wire, case: Case) -> Case:
        answer = wire.ask("/generate", case.body)
        if answer.status != 200:
            raise RuntimeError(
                f"a {case.kind} request is not answered alone: {answer.fault or answer.text[:300]}"
            )
        ids = answer.json()["output_ids"]
        if case.forced is not None and ids != case.forced:
            self.result.wrong += 1
            self._find("a forced answer is the one forced", f"alone: {ids} for {case.forced}")
        return Case(case.kind, case.body, case.forced, tuple(ids))

    async def _all(self, wire: Wire, cases: list[Case]) -> list[tuple[Case, Answer, bool]]:
        """Every request, ``concurrency`` at a time; with whether it was to be aborted."""
        rng, asked = self.rng, []
        order = [cases[i % len(cases)] for i in range(self.result.requests)]
        rng.shuffle(order)
        strikes = [rng.uniform(0.0, 8.0) if rng.random() < 1 / ABORTED else None for _ in order]
        turns = itertools.count()

        async def worker(client: httpx.AsyncClient) -> None:
            while (i := next(turns)) < len(order):
                rid, strike = f"soak-{i}-", strikes[i]
                call = Call(order[i].kind, "/generate", {**order[i].body, "rid": rid})
                asking = asyncio.create_task(wire.make(client, call))
                if strike is not None:
                    await asyncio.wait([asking], timeout=strike)
                    body = {"rid": rid}
                    await wire.make(client, Call("abort", "/abort_request", body))
                asked.append((order[i], await asking, strike is not None))
                if len(asked) % 50 == 0:
                    self.tell(f"{len(asked)} of {len(order)} answered")

        async with wire.client() as client:
            await asyncio.gather(*(worker(client) for _ in range(self.concurrency)))
        return asked

    def _compare(self, wire: Wire, case: Case, answer: Answer, struck: bool) -> None:
        result = self.result
        if answer.fault is not None or answer.status != 200:
            if struck and answer.status is not None and invariants.NAMED.search(answer.text):
                result.aborted += 1
                return
            result.lost += 1
            self._find("every request is answered", answer.fault or answer.text[:300])
            return
        meta = answer.json()["meta_info"]
        ids = answer.json()["output_ids"]
        result.tokens += meta["completion_tokens"]
        result.forks += meta.get("multiverse_forks") or 0
        result.retractions += meta.get("num_retractions") or 0
        if meta["finish_reason"]["type"] == "abort":
            if struck:
                result.aborted += 1
                return
            result.lost += 1
            self._find("nobody is aborted unasked", str(meta["finish_reason"])[:300])
        elif tuple(ids) != case.alone:
            self._differs(wire, case, ids, meta)

    def _differs(self, wire: Wire, case: Case, ids: list[int], meta: dict[str, Any]) -> None:
        """A tie if, alone, the two tokens at the first difference are within :data:`TIE`."""
        alone = case.alone
        at = next(
            (i for i, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b),
            min(len(ids), len(alone)),
        )
        gap = None
        if case.forced is None and at < min(len(ids), len(alone)):
            gap = self._gap(wire, case, at, ids[at])
        if gap is not None and gap < TIE:
            self.result.ties += 1
            return
        self.result.wrong += 1
        self._find(
            f"a {case.kind} answer is the answer alone",
            f"differs at {at} of {len(alone)}: {ids[at : at + 8]} instead of "
            f"{list(alone[at : at + 8])}; logprob gap {gap}; retractions "
            f"{meta.get('num_retractions')}; prompt {case.body['input_ids']}",
        )

    def _gap(self, wire: Wire, case: Case, at: int, other: int) -> float | None:
        """Between the logprobs, alone, of the answer's token at ``at`` and of ``other``; None if it
        cannot be told."""
        body = {**case.body, "return_logprob": True, "top_logprobs_num": 5}
        told = wire.ask("/generate", body).json()
        if tuple(told["output_ids"][:at]) != case.alone[:at]:
            return None
        top = told["meta_info"]["output_top_logprobs"][at] or ()
        known = {entry[1]: entry[0] for entry in top}
        if other not in known or case.alone[at] not in known:
            return None
        return abs(float(known[case.alone[at]] - known[other]))

    def _find(self, what: str, detail: str) -> None:
        self.result.found.append({"what": what, "detail": detail})
        self.tell(f"{what}: {detail[:300]}")
