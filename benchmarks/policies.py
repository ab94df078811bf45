"""Goodput under a latency target, by policy of branching.

    python benchmarks/policies.py [--rates 1,2] [--seconds 15] [--repeats 2] [--json FILE]

Starts one server on the tiny model and sends it open-loop Poisson traffic: plain streaming
requests, and questions that fork. Every configuration gets the same arrivals of the same questions;
configurations take turns, so that other work on the machine meets them all alike. One server runs
every policy, switched between two runs by a logit processor; nothing else of it changes.

A plain request meets the target when its time per output token (after the first) does. A forking
one is measured by the time after its first token over the tokens of its critical path as it is when
it runs in parallel, in every configuration: what a user waits for the same answer. Targets are
multiples of the time per token of a plain request alone on the server. Goodput is requests that met
the target per second of arrivals.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor
from transformers import AutoTokenizer

from sglang_multiverse.server import Server
from sglang_multiverse.tiny import MODEL_DIR, task

FLAGS = ["--dtype", "float32", "--enable-custom-logit-processor", "--max-total-tokens", "40000"]
OFF = "off"
POLICIES = (OFF, "cap:1", "cap:2", "cap:4", "load:4", "load:8", "load:16", "eager")
MULTIPLES = (2.0, 3.0, 4.0, 6.0, 8.0)


class Switch(CustomLogitProcessor):
    """Gives the server the policy that the request names."""

    def __call__(self, logits: Any, custom_param_list: Any) -> Any:
        # Imported here: the class travels by value to the scheduler's process.
        from sglang_multiverse.engine.policy import Policy
        from sglang_multiverse.patches.active import coordinator

        coordinator().policy = Policy.parse(custom_param_list[-1]["policy"])
        return logits


@dataclass(frozen=True)
class Arrival:
    """A request to come: when (seconds), whether it forks, and which question."""

    at: float
    forks: bool
    question: int


@dataclass(frozen=True)
class Served:
    """One request as its client saw it; times in seconds, counted from when it was due."""

    forks: bool
    first: float
    last: float
    tokens: int
    units: int  # what the target is per: tokens after the first, or critical-path tokens

    @property
    def per_token(self) -> float:
        return (self.last - self.first) / max(1, self.units)


class Traffic:
    """The questions, and what each costs alone."""

    def __init__(self, server: Server, questions: int, seed: int):
        self.server = server
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
        self.problems = list(islice(task.generate(seed, "test"), questions))
        self.critical: list[int] = []

    def prompt(self, question: int, mode: task.Mode) -> str:
        content = task.prompt(self.problems[question], mode)
        messages = [{"role": "user", "content": content}]
        return str(
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )

    def ask(self, question: int, *, forks: bool, off: bool, due: float) -> tuple[Served, Any]:
        """Stream one answer; only its last event is decoded, so that clients stay cheap."""
        params: dict[str, Any] = {"temperature": 0, "max_new_tokens": 600}
        if off or not forks:
            params["custom_params"] = {"multiverse": False}
        text = self.prompt(question, "parallel" if forks else "sequential")
        body = {"text": text, "sampling_params": params, "stream": True}
        first = last = 0.0
        meta: Any = None
        for event in self.server.stream("/generate", body):
            last = time.perf_counter() - due
            first = first or last
            meta = event["meta_info"]
        tokens = int(meta["completion_tokens"])
        critical = self.critical[question] if self.critical and forks else tokens
        return Served(forks, first, last, tokens, critical - 1), meta

    def measure(self) -> None:
        """The critical path of every question, and a warm server."""

        def one(question: int) -> int:
            _, meta = self.ask(question, forks=True, off=False, due=time.perf_counter())
            return int(meta["multiverse_critical_path_tokens"])

        with ThreadPoolExecutor(4) as pool:
            self.critical = list(pool.map(one, range(len(self.problems))))

    def alone(self) -> float:
        """Median seconds per token of a plain request with the server to itself."""
        asked = [
            self.ask(question, forks=False, off=True, due=time.perf_counter())[0]
            for question in range(4)
        ]
        return statistics.median(served.per_token for served in asked)

    def switch(self, policy: str) -> None:
        params = {"policy": policy, "multiverse": False}
        body = {
            "text": "A",
            "custom_logit_processor": Switch.to_str(),
            "sampling_params": {"max_new_tokens": 1, "custom_params": params},
        }
        self.server.request("/generate", body)

    def run(self, arrivals: Sequence[Arrival], policy: str) -> list[Served]:
        """Send each request when it is due, whatever has come of those before it."""
        self.switch("eager" if policy == OFF else policy)
        served: list[Served | None] = [None] * len(arrivals)
        threads = []
        begun = time.perf_counter()

        def send(index: int, arrival: Arrival) -> None:
            due = begun + arrival.at
            time.sleep(max(0.0, due - time.perf_counter()))
            served[index], _ = self.ask(
                arrival.question, forks=arrival.forks, off=policy == OFF, due=due
            )

        for index, arrival in enumerate(arrivals):
            thread = threading.Thread(target=send, args=(index, arrival))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        return [one for one in served if one is not None]


def poisson(rate: float, seconds: float, share: float, questions: int, seed: int) -> list[Arrival]:
    """Arrivals at ``rate`` a second, of which a ``share`` forks."""
    rng = random.Random(seed)
    found, at = [], rng.expovariate(rate)
    while at < seconds:
        found.append(Arrival(at, rng.random() < share, rng.randrange(questions)))
        at += rng.expovariate(rate)
    return found


def goodput(served: Sequence[Served], target: float, seconds: float) -> float:
    return sum(one.per_token <= target for one in served) / seconds


def spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def milliseconds(served: Sequence[Served], forks: bool) -> str:
    times = [1000 * one.per_token for one in served if one.forks is forks]
    if len(times) < 2:
        return "-"
    return f"{statistics.median(times):.1f} / {statistics.quantiles(times, n=20)[-1]:.1f}"


def report(cells: list[dict[str, Any]], alone: float, seconds: float) -> None:
    targets = [f"≤ {multiple:g}×" for multiple in MULTIPLES]
    for rate in sorted({cell["rate"] for cell in cells}):
        print(f"\n{rate:g} requests/s; alone, a plain request takes {1000 * alone:.1f} ms a token")
        print("goodput, requests/s: mean (min-max of the repeats); ms/token: p50 / p95")
        print(f"| policy | {' | '.join(targets)} | plain, ms | forking, ms | tokens |")
        print(f"|---|{'---|' * (len(targets) + 3)}")
        for policy in POLICIES:
            runs = [c for c in cells if c["rate"] == rate and c["policy"] == policy]
            if not runs:
                continue
            served = [Served(**one) for run in runs for one in run["served"]]
            good = [
                spread(
                    [goodput([Served(**o) for o in r["served"]], m * alone, seconds) for r in runs]
                )
                for m in MULTIPLES
            ]
            tokens = statistics.mean(one.tokens for one in served if one.forks)
            print(
                f"| {policy} | {' | '.join(good)} | {milliseconds(served, False)} | "
                f"{milliseconds(served, True)} | {tokens:.0f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rates", default="1,2", help="arrivals per second, several with commas")
    parser.add_argument("--seconds", type=float, default=15, help="how long requests arrive")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.5, help="share of requests that fork")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--json", type=Path, help="write every request's times here")
    parser.add_argument(
        "--report", type=Path, help="measure nothing; print the tables of this file"
    )
    args = parser.parse_args()
    if args.report:
        found = json.loads(args.report.read_text(encoding="utf-8"))
        report(found["runs"], found["alone"], float(found["settings"]["seconds"]))
        return
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("json", "report")}
    rates = [float(rate) for rate in args.rates.split(",")]
    runs: list[dict[str, Any]] = []
    with Server(MODEL_DIR, flags=FLAGS) as server:
        traffic = Traffic(server, args.questions, args.seed)
        traffic.measure()
        alone = traffic.alone()
        found = {"settings": settings, "device": server.device, "alone": alone, "runs": runs}
        for repeat in range(args.repeats):
            for rate in rates:
                seed = hash((args.seed, repeat, rate))
                arrivals = poisson(rate, args.seconds, args.share, args.questions, seed)
                turns = args.policies.split(",")
                random.Random(seed).shuffle(turns)
                for policy in turns:
                    served = traffic.run(arrivals, policy)
                    runs.append(
                        {
                            "policy": policy,
                            "rate": rate,
                            "repeat": repeat,
                            "served": [asdict(one) for one in served],
                        }
                    )
                    print(f"{repeat} {rate:g}/s {policy}: {len(served)} answered", flush=True)
                    if args.json:
                        args.json.write_text(json.dumps(found) + "\n", encoding="utf-8")
    report(runs, alone, args.seconds)


if __name__ == "__main__":
    main()
