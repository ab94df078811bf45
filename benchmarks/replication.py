"""A replication: does a model that forks keep up, and what does it gain?

    python benchmarks/replication.py all [--out runs/replication] [--pilot]
    python benchmarks/replication.py train | serve | time | report   [the same options]

Questions ask where two, four or eight runs of machines end (``sglang_multiverse.tiny.machines``),
worked out in 120 to 200 tokens each. Stage 1 makes an autoregressive model for each seed, on
sequential text, as the paper starts from one. Stage 2 trains on from it, the same number of steps
each way:

===========  ==============================================  =========  =================
arm          answers                                         attention  positions
===========  ==============================================  =========  =================
ar           one run after another, as before                causal     in text order
multiverse   a path for each run                             by order   shared by paths
curriculum   the eight passes from flattened text to blocks  by order   shared by paths
no-mask      a path for each run                             causal     in text order
===========  ==============================================  =========  =================

Each arm is trained with two learning rates, on every seed where forks share positions, else on the
first; the better on unseen questions is its rate. What comes of it is served, by the real engine,
on other unseen questions. ``time`` asks some of them one at a time. Every part that is done is kept
in ``--out``; a run that was cut goes on from there. Trains ``--at-once`` models at a time (2), on a
GPU where there is one: an H200 took six minutes for the twenty models of stage 2, all at once; two
cores take hours. ``serve`` and ``time`` need a server; models may be trained on one machine and
served on another.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from replication_errors import cause
from replication_report import report

from sglang_multiverse.tiny.machines import COUNTS, Asks, Question, prompt, questions
from sglang_multiverse.tiny.task import Mode

#: Arm → the variant that it is trained as, and the mode of its questions.
ARMS: dict[str, tuple[str, Mode]] = {
    "ar": ("multiverse", "sequential"),
    "multiverse": ("multiverse", "parallel"),
    "curriculum": ("multiverse", "parallel"),
    "no-mask": ("no-mask", "parallel"),
}
#: Arms that are trained with every rate on the first seed alone: they end as well with either.
SETTLED = ("ar", "no-mask")
#: Seeds of questions nobody is trained on: to choose by, to time, to serve (others to each seed).
CHOOSING, TIMING, SERVING = 1, 3, 100
#: Not which ends highest: to compare two numbers took models of this size more than all else.
ASKS: Asks = "ends"


@dataclass(frozen=True)
class Size:
    """How much of it.

    Attributes:
        lookups: steps before stage 1, at most, that teach to look things up.
        easy, first: steps of stage 1 on short runs, and of stage 1 together.
        second: steps of stage 2.
        batch: texts of a step, in stage 1 and in stage 2.
        every: steps between exams, in stage 1 and in stage 2.
        exam, served, timed: questions, those to be served for each seed.
        few: questions that show what becomes of a model that is served as it was not trained.
        longest: tokens of an answer, above which it is cut.
    """

    lookups: tuple[int, int, int] = (1500, 600, 500)
    easy: int = 200
    first: int = 1500
    second: int = 1440
    batch: tuple[int, int] = (4, 8)
    every: tuple[int, int] = (300, 120)
    exam: int = 48
    served: int = 135
    timed: int = 12
    few: int = 24
    longest: int = 2600
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = (1e-2, 3e-3)


PILOT = Size(
    lookups=(4, 4, 4),
    easy=2,
    first=6,
    second=8,
    batch=(4, 4),
    every=(3, 4),
    exam=3,
    served=6,
    timed=3,
    few=3,
    longest=200,
    seeds=(0,),
)
#: Of the matrices, in stage 1.
FIRST_RATE = 2e-2


@dataclass(frozen=True)
class Job:
    """One model to train: stage 1 (arm ``first``), or an arm of stage 2."""

    arm: str
    seed: int
    rate: float

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}-{self.rate:g}"

    @classmethod
    def named(cls, name: str) -> Job:
        arm, seed, rate = name.rsplit("-", 2)
        return cls(arm, int(seed), float(rate))


def stage_1(size: Size) -> list[Job]:
    """One job for each seed."""
    return [Job("first", seed, FIRST_RATE) for seed in size.seeds]


def tried(arm: str, size: Size) -> list[Job]:
    """An arm at every rate, on the seeds by which its rate is chosen."""
    seeds = size.seeds[:1] if arm in SETTLED else size.seeds
    return [Job(arm, seed, rate) for rate in size.rates for seed in seeds]


def better(arm: str, out: Path, size: Size) -> float:
    """Of the rates of an arm the one whose models write more unseen questions word for word; of two
    that write as many, the one with the lower loss."""

    def merit(rate: float) -> tuple[float, float]:
        jobs = [job for job in tried(arm, size) if job.rate == rate]
        return sum(exam_of(out, job) for job in jobs), -sum(loss_of(out, job) for job in jobs)

    return max(size.rates, key=merit)


def first_model(out: Path, size: Size) -> Path:
    """A model of stage 1; the tokenizer of all stands in it, too."""
    return out / stage_1(size)[0].name / "model"


def train(job: Job, out: Path, size: Size, workers: int) -> None:
    """Train one model and keep what came of it in ``out / job.name``."""
    import torch
    from transformers import Qwen2ForCausalLM

    from sglang_multiverse.tiny.factory import machines as factory

    torch.set_num_threads(1)
    tokenizer = factory.machines_tokenizer()
    model = factory.machines_model(tokenizer, job.seed)
    first = job.arm == "first"
    variant, mode = ARMS["ar" if first else job.arm]
    if not first:
        folder = out / Job("first", job.seed, FIRST_RATE).name / "model"
        model.load_state_dict(Qwen2ForCausalLM.from_pretrained(folder).state_dict())
    steps = size.first if first else size.second
    batch = size.batch[0 if first else 1]
    # Other questions than stage 1 saw, the same for every arm.
    seed = job.seed if first else 1000 + job.seed
    if job.arm == "curriculum":
        data = factory.in_passes(seed, steps, batch, ASKS)
    else:
        easy = size.easy if first else 0
        data = factory.rows(seed, steps, batch, {(mode, False): 1.0}, easy_steps=easy, asks=ASKS)
    paper = {
        str(count): [
            factory.row(one, mode)
            for one in itertools.islice(
                questions(CHOOSING, "test", counts=(count,), asks=ASKS), size.exam // len(COUNTS)
            )
        ]
        for count in COUNTS
    }
    begun = time.monotonic()
    lookups = []
    if first:
        lookups = factory.learn_lookups(
            model,
            tokenizer,
            out / job.name,
            seed=job.seed,
            steps=size.lookups,
            workers=workers,
        )
    done = factory.train(
        model,
        tokenizer,
        data,
        out / job.name,
        steps=steps,
        batch=batch,
        rate=job.rate,
        variant=variant,
        seed=job.seed,
        exam=factory.Exam(tokenizer, paper, variant, size.every[0 if first else 1]),
        warmup=min(30, steps // 4),
        workers=workers,
    )
    if variant != "multiverse":  # to be served as it was not trained, which a server refuses
        del model.config.multiverse
        model.save_pretrained(out / job.name / "model")
    found = {
        **vars(job),
        **done,
        "lookups": lookups,
        "steps": steps,
        "seconds": time.monotonic() - begun,
    }
    (out / job.name / "trained.json").write_text(json.dumps(found), encoding="utf-8")


def train_all(out: Path, size: Size, options: list[str], at_once: int) -> None:
    """Every model that is not there yet, some at a time; each seed's stage 1 before its stage 2."""

    def one(job: Job) -> None:
        if (out / job.name / "trained.json").exists():
            return
        command = [sys.executable, __file__, "one", "--job", job.name, *options]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        (out / job.name).mkdir(parents=True, exist_ok=True)
        with (out / job.name / "log").open("w", encoding="utf-8") as log:
            subprocess.run(command, env=env, stdout=log, stderr=log, check=True)
        print(f"{job.name}: {exam_of(out, job):.1%} word for word", flush=True)

    def after(job: Job, base: Future[None]) -> None:
        base.result()
        one(job)

    def chosen_one(arm: str, seed: int, awaited: list[Future[None]]) -> None:
        for done in awaited:
            done.result()
        one(Job(arm, seed, better(arm, out, size)))

    with ThreadPoolExecutor(at_once) as pool:  # each waits only for what was handed out before it
        base = {job.seed: pool.submit(one, job) for job in stage_1(size)}
        trials = {
            arm: [pool.submit(after, job, base[job.seed]) for job in tried(arm, size)]
            for arm in ARMS
        }
        rest = [
            pool.submit(chosen_one, arm, seed, [*trials[arm], base[seed]])
            for arm in SETTLED
            for seed in size.seeds[1:]
        ]
        for done in (*base.values(), *itertools.chain(*trials.values()), *rest):
            done.result()


def loss_of(out: Path, job: Job) -> float:
    """The last loss of a trained model."""
    losses = json.loads((out / job.name / "trained.json").read_text(encoding="utf-8"))["losses"]
    return float(losses[-1][1]) if losses else math.inf  # none of a pilot's few steps


def exam_of(out: Path, job: Job) -> float:
    """Share of the unseen questions to choose by that the trained model writes word for word."""
    last = json.loads((out / job.name / "trained.json").read_text(encoding="utf-8"))["exams"][-1]
    return sum(last[str(count)] for count in COUNTS) / len(COUNTS)


def chosen(out: Path, size: Size) -> list[Job]:
    """What is served: of each seed that is trained, stage 1 and every arm at its better rate."""

    def trained(jobs: list[Job]) -> bool:
        return all((out / job.name / "trained.json").exists() for job in jobs)

    if not all(trained(tried(arm, size)) for arm in ARMS):
        return []
    rates = {arm: better(arm, out, size) for arm in ARMS}
    picked = []
    for first in stage_1(size):
        own = [first, *(Job(arm, first.seed, rate) for arm, rate in rates.items())]
        picked += own if trained(own) else []
    return picked


def unseen(seed: int, count: int) -> list[Question]:
    """As many questions of each number of runs."""
    each = count // len(COUNTS)
    return [
        question
        for number in COUNTS
        for question in itertools.islice(questions(seed, "test", counts=(number,), asks=ASKS), each)
    ]


class Asker:
    """One server, whose weights are swapped from model to model."""

    def __init__(self, out: Path, server: Any, size: Size):
        from transformers import AutoTokenizer

        self.out, self.server, self.longest = out, server, size.longest
        self.tokenizer = AutoTokenizer.from_pretrained(first_model(out, size))

    def load(self, job: Job) -> None:
        body = {"model_path": str((self.out / job.name / "model").resolve()), "flush_cache": True}
        swapped = self.server.request("/update_weights_from_disk", body)
        if not swapped["success"]:
            raise RuntimeError(f"{job.name}: {swapped['message']}")

    def ask(self, question: Question, mode: Mode, forking: bool = True) -> dict[str, Any]:
        message = [{"role": "user", "content": prompt(question, mode)}]
        text = self.tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True
        )
        params: dict[str, Any] = {
            "temperature": 0,
            "max_new_tokens": self.longest,
            "skip_special_tokens": False,
        }
        if not forking:
            params["custom_params"] = {"multiverse": False}
        begun = time.perf_counter()
        body = {"text": text, "sampling_params": params}
        answer = self.server.request("/generate", body, timeout=3600)
        seconds = time.perf_counter() - begun
        meta = answer["meta_info"]
        tokens = meta["completion_tokens"]
        return {
            "runs": len(question.runs),
            "rounds": sum(run.rounds for run in question.runs) / len(question.runs),
            "cause": cause(answer["text"], question, mode),
            "tokens": tokens,
            "critical_path": meta.get("multiverse_critical_path_tokens", tokens),
            "forward_steps": meta.get("multiverse_forward_steps", tokens),
            "seconds": seconds,
        }


def served_as(job: Job, size: Size) -> list[tuple[Mode, bool]]:
    """The modes a model is asked in, and whether the engine forks. What is trained without the mask
    is served without forks; on the first seed with them, too, to see what becomes of it."""
    mode = ARMS["ar" if job.arm == "first" else job.arm][1]
    if job.arm != "no-mask":
        return [(mode, True)]
    return [(mode, False), (mode, True)] if job.seed == size.seeds[0] else [(mode, False)]


def serve(out: Path, size: Size, asker: Asker, *, one_at_a_time: bool) -> None:
    """Ask every chosen model, and keep each answer's measures beside it."""
    name, workers = ("timed.json", 1) if one_at_a_time else ("served.json", 48)
    for job in chosen(out, size):
        kept = out / job.name / name
        rows = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
        modes = [one for one in served_as(job, size) if one[1] not in [r["forking"] for r in rows]]
        if one_at_a_time:  # what is served as it was not trained takes long and says little
            modes = [one for one in modes if job.arm != "no-mask" or not one[1]]
        if not modes or (one_at_a_time and job.seed != size.seeds[0]):
            continue
        asker.load(job)
        for mode, forking in modes:
            if one_at_a_time:
                asked = unseen(TIMING, size.timed)
            else:  # the first writes on and on: a few show it
                few = job.arm == "no-mask" and forking
                asked = unseen(SERVING + job.seed, size.few if few else size.served)
            with ThreadPoolExecutor(workers) as pool:
                answers = list(pool.map(lambda q, m=mode, f=forking: asker.ask(q, m, f), asked))
            rows.append({"forking": forking, "answers": answers})
            right = sum(one["cause"] == "right" for one in answers)
            print(f"{job.name}, forking {forking}: {right} of {len(answers)}", flush=True)
            kept.write_text(json.dumps(rows), encoding="utf-8")


def gather(out: Path, size: Size) -> dict[str, Any]:
    """All that was measured."""
    picked = chosen(out, size)
    every = [*picked, *(job for arm in ARMS for job in tried(arm, size) if job not in picked)]

    def read(job: Job, name: str) -> Any:
        path = out / job.name / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    return {
        "size": {**vars(size)},
        "trained": [
            {**found, **vars(job)}
            for job in every
            if (found := read(job, "trained.json")) is not None
        ],
        "served": [
            {**vars(job), **row} for job in picked for row in read(job, "served.json") or ()
        ],
        "timed": [{**vars(job), **row} for job in picked for row in read(job, "timed.json") or ()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["all", "train", "serve", "time", "report", "one"])
    parser.add_argument("--out", type=Path, default=Path("runs/replication"))
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where figures go")
    parser.add_argument("--results", type=Path, help="report of this file, not of what is in --out")
    parser.add_argument("--pilot", action="store_true", help="minutes instead of hours")
    parser.add_argument("--at-once", type=int, default=2, help="models that train beside others")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = PILOT if options.pilot else Size()
    out: Path = options.out
    passed = ["--out", str(out), "--at-once", str(options.at_once)]
    passed += ["--pilot"] if options.pilot else []
    if options.stage == "one":
        workers = max(1, (os.cpu_count() or 1) // (2 * options.at_once))
        job = Job.named(options.job)
        (out / job.name).mkdir(parents=True, exist_ok=True)
        with FileLock(out / job.name / "lock"):  # who comes second waits, and finds it done
            if not (out / job.name / "trained.json").exists():
                train(job, out, size, workers)
        return
    if options.stage in ("all", "train"):
        train_all(out, size, passed, options.at_once)
    if options.stage in ("all", "serve", "time"):
        from sglang_multiverse.server import Server

        flags = ["--dtype", "float32", "--max-total-tokens", "120000"]
        with Server(first_model(out, size), flags=flags) as server:
            asker = Asker(out, server, size)
            if options.stage != "time":
                serve(out, size, asker, one_at_a_time=False)
            if options.stage != "serve":
                serve(out, size, asker, one_at_a_time=True)
    if options.stage in ("all", "report"):
        if options.results is not None:
            found = json.loads(options.results.read_text(encoding="utf-8"))
        else:
            found = gather(out, size)
            (out / "results.json").write_text(json.dumps(found), encoding="utf-8")
        print(report(found, options.docs / "figures" if not options.pilot else out))


if __name__ == "__main__":
    main()
