"""A whole SGLang server with the plugin on a GPU: are its answers right, and what do forks gain?

    benchmarks/gpu/server.sh OUT [--only multiverse,wide] [--questions 48] [--seconds 280]

Servers start together, each checked as soon as it answers: unseen questions of the tiny model in
parallel, nested and sequential mode, 64 at once, then its finished answers given back as prompts,
after which it must go on as before. The server called ``wide`` is timed alone afterwards: the same
model inside the shape of Qwen2.5-3B (``widen.py``). Every part writes its JSON when it is done, and
logs are copied as they grow, so that a run cut short still tells what it saw.

``sgl_kernel``'s compiled operators are replaced here (``standin/common_ops.py``).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from widen import NARROW, WIDE, Size, widen

from sglang_multiverse.server import Server
from sglang_multiverse.stress.settings import CHECKS
from sglang_multiverse.tiny import MACHINES_DIR, machines

BEGUN = time.monotonic()
WORKERS = 64
SEED = 2026
COMMON = ("--random-seed", "1", "--decode-log-interval", "10", "--cuda-graph-max-bs-decode", "64")
TROUBLE = re.compile(r"leak|Traceback|Error\b|exception|mismatch|Retract|retract", re.IGNORECASE)
HARMLESS = re.compile(r"server_args=|Ignore import error|Responses API|freeze_gc")
SIZES = {"narrow": NARROW, "wide": WIDE}
#: Where there is no GPU.
SMALL = {"narrow": Size(512, 512, 4, 4), "wide": Size(512, 1024, 6, 4)}


@dataclass(frozen=True)
class Setup:
    """One server to start."""

    size: str
    dtype: str
    flags: tuple[str, ...]
    tokens: int = 120_000


NO_PREFILL_GRAPH = "--disable-prefill-cuda-graph"
SETUPS = {
    "multiverse": Setup(
        "narrow", "bfloat16", ("--attention-backend", "multiverse", NO_PREFILL_GRAPH)
    ),
    "flashinfer": Setup(
        "narrow", "bfloat16", ("--attention-backend", "flashinfer", NO_PREFILL_GRAPH)
    ),
    "triton": Setup("narrow", "float32", ("--attention-backend", "triton", NO_PREFILL_GRAPH)),
    "triton-bf16": Setup("narrow", "bfloat16", ("--attention-backend", "triton", NO_PREFILL_GRAPH)),
    # Prefill graphs as stock has them, and so few slots that requests are retracted and replayed.
    "scarce": Setup("narrow", "bfloat16", ("--attention-backend", "multiverse"), tokens=9000),
    "wide": Setup("wide", "bfloat16", ("--attention-backend", "multiverse", NO_PREFILL_GRAPH)),
}
DEFAULT = "multiverse,flashinfer,triton,scarce,wide"


class Run:
    """What all servers share: models, questions, the clock and the folder of results."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.out: Path = options.out
        self.scratch = (
            self.out.parent / "server-models" if options.dry_run else Path(options.models)
        )
        self.tokenizer = AutoTokenizer.from_pretrained(MACHINES_DIR)
        self.lock = threading.Lock()
        self.made: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)
        self.checked = threading.Event()
        self.reference = {}
        if options.reference and options.reference.exists():
            self.reference = json.loads(options.reference.read_text())["answers"]

    def left(self) -> float:
        return max(1.0, self.options.seconds - (time.monotonic() - BEGUN))

    def say(self, what: str) -> None:
        print(f"[{time.monotonic() - BEGUN:6.1f}] {what}", flush=True)

    def write(self, name: str, what: Any) -> None:
        (self.out / f"{name}.json").write_text(json.dumps(what, indent=1))

    def model(self, setup: Setup, dtype: str) -> Path:
        size = (SMALL if self.options.dry_run else SIZES)[setup.size]
        folder = self.scratch / f"{setup.size}-{dtype}"
        with self.lock:
            making = self.made[folder.name]
        with making:
            if not (folder / "model.safetensors").exists():
                count = widen(MACHINES_DIR, folder, size, getattr(torch, dtype))
                self.say(f"{folder.name}: {count / 1e6:.0f} M weights")
        return folder

    def questions(self, mode: str) -> list[Any]:
        nested = mode == "nested"
        asked = machines.questions(
            SEED, "test", **({"counts": (2, 4), "nested": True} if nested else {})
        )
        count = self.options.questions // 3 if nested else self.options.questions
        return list(itertools.islice(asked, count))

    def prompt(self, question: Any, mode: str) -> str:
        said = machines.prompt(question, "sequential" if mode == "sequential" else "parallel")
        text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": said}], tokenize=False, add_generation_prompt=True
        )
        return text

    def generate(self, server: Server, text: str) -> dict[str, Any]:
        body = {"text": text, "sampling_params": {"temperature": 0, "max_new_tokens": 2000}}
        begun = time.perf_counter()
        answer = server.request("/generate", body, timeout=self.left())
        seconds = time.perf_counter() - begun
        meta = answer["meta_info"]
        known = {key: value for key, value in meta.items() if key.startswith("multiverse_")}
        return {
            "text": answer["text"],
            "seconds": seconds,
            "tokens": meta["completion_tokens"],
            "cached": meta["cached_tokens"],
            "retractions": meta.get("num_retractions", 0),
            **{key.removeprefix("multiverse_"): value for key, value in known.items()},
        }


def ask(run: Run, server: Server, item: tuple[str, int, Any]) -> dict[str, Any]:
    mode, number, question = item
    answer = run.generate(server, run.prompt(question, mode))
    answer |= {"mode": mode, "number": number, "right": machines.grade(answer["text"], question)}
    return answer


def summary(answers: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    tokens = sum(a["tokens"] for a in answers)
    critical = sum(a.get("critical_path_tokens", a["tokens"]) for a in answers)
    return {
        "questions": len(answers),
        "right": sum(a["right"] for a in answers),
        "forked": sum(a.get("forks", 0) > 0 for a in answers),
        "depth": max(a.get("depth", 0) for a in answers),
        "retractions": sum(a["retractions"] for a in answers),
        "parallelism": tokens / critical,
        "mean_tokens": statistics.mean(a["tokens"] for a in answers),
        "mean_forward_steps": statistics.mean(a.get("forward_steps", 0) for a in answers),
        "mean_seconds": statistics.mean(a["seconds"] for a in answers),
        "median_seconds": statistics.median(a["seconds"] for a in answers),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }


def timed(
    run: Run, server: Server, items: list[tuple[str, int, Any]], workers: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    begun = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        answers = list(pool.map(partial(ask, run, server), items))
    return answers, summary(answers, time.perf_counter() - begun)


def check(run: Run, server: Server) -> dict[str, Any]:
    """Everything at once, then every finished block given back as a prompt."""
    asked = {mode: run.questions(mode) for mode in ("parallel", "nested", "sequential")}
    items = [(m, i, q) for m, questions in asked.items() for i, q in enumerate(questions)]
    items.sort(key=lambda item: item[1])  # modes side by side
    answers, whole = timed(run, server, items, WORKERS)
    found: dict[str, Any] = {"all": whole}
    for mode in asked:
        found[mode] = summary([a for a in answers if a["mode"] == mode], whole["seconds"])
        texts = run.reference.get(mode, [])
        both = [
            (a["text"], texts[a["number"]])
            for a in answers
            if a["mode"] == mode and a["number"] < len(texts)
        ]
        if both:
            found[mode]["as_reference"] = sum(x == y for x, y in both)
            found[mode]["of_reference"] = len(both)
    found["refilled"] = refill(run, server, asked, answers)
    found["answers"] = {
        mode: [
            a["text"]
            for a in sorted(answers, key=lambda a: a["number"])  # type: ignore[no-any-return]
            if a["mode"] == mode
        ]
        for mode in asked
    }
    found["lengths"] = [(a["mode"], a["tokens"], a.get("forward_steps")) for a in answers]
    return found


def refill(
    run: Run, server: Server, asked: dict[str, list[Any]], answers: list[dict[str, Any]]
) -> dict[str, Any]:
    """Texts with finished blocks as prompts, once computed anew and once from the prefix cache: a
    server that puts them in their places goes on as it went on before."""
    end = "</Parallel>"
    forked = [a for a in answers if a.get("forks") and end in a["text"]]
    prompts, rests = [], []
    for answer in forked:
        cut = answer["text"].rindex(end) + len(end)
        first = run.prompt(asked[answer["mode"]][answer["number"]], answer["mode"])
        prompts.append(first + answer["text"][:cut])
        rests.append(answer["text"][cut:])
    found: dict[str, Any] = {"asked": len(forked)}
    for way in ("anew", "cached"):
        if way == "anew":
            time.sleep(1)
            server.request("/flush_cache", {}, raw=True, timeout=run.left())
        with ThreadPoolExecutor(WORKERS) as pool:
            got = list(pool.map(partial(run.generate, server), prompts))
        found[way] = {
            "as_before": sum(a["text"] == rest for a, rest in zip(got, rests, strict=True)),
            "cached_tokens": sum(a["cached"] for a in got),
        }
    return found


def time_alone(run: Run, server: Server) -> dict[str, Any]:
    """One request at a time and many at once, parallel against sequential."""
    found: dict[str, Any] = {}
    questions = run.questions("parallel")
    few = questions[: run.options.alone]
    for mode in ("parallel", "sequential"):
        timed(run, server, [(mode, 0, questions[-1])], 1)  # warms up
        server.request("/flush_cache", {}, raw=True, timeout=run.left())
        _, row = timed(run, server, [(mode, i, q) for i, q in enumerate(few)], 1)
        row["ms_per_step"] = 1e3 * row["mean_seconds"] / max(1, row["mean_forward_steps"])
        found[f"{mode}, one at a time"] = row
        run.say(f"wide, {mode}, one at a time: {row['mean_seconds']:.2f} s")
        run.write("timed", found)
    for workers in (8, WORKERS):
        for mode in ("parallel", "sequential"):
            server.request("/flush_cache", {}, raw=True, timeout=run.left())
            several = questions[: max(workers, run.options.alone)]
            items = [(mode, i, q) for i, q in enumerate(several)]
            _, row = timed(run, server, items, workers)
            found[f"{mode}, {workers} at once"] = row
            run.say(f"wide, {mode}, {workers} at once: {row['seconds']:.2f} s")
            run.write("timed", found)
    return found


def copy_log(server: Server, target: Path, over: threading.Event) -> None:
    """A server's log is gone with it: keep what it has said so far."""
    while not over.wait(2):
        try:
            shutil.copy(server.log_path, target)
        except (OSError, RuntimeError):  # not there yet, or just removed
            continue


def observed(log: str) -> dict[str, Any]:
    lines = log.splitlines()
    return {
        "decode steps logged with a graph": sum("cuda graph: True" in line for line in lines),
        "decode steps logged without": sum("cuda graph: False" in line for line in lines),
        "trouble": [
            line[:300] for line in lines if TROUBLE.search(line) and not HARMLESS.search(line)
        ][:20],
        "notes": [
            line[:300]
            for line in lines
            if re.search(
                r"Engine startup timings|KV Cache is allocated|Tree Core|attention.backend "
                r"|Capture .*end",
                line,
            )
            and "server_args" not in line
        ][:20],
    }


def serve(run: Run, name: str) -> None:
    setup = SETUPS[name]
    dtype = "float32" if run.options.dry_run else setup.dtype
    result: dict[str, Any] = {"setup": vars(setup), "dtype": dtype}
    over = threading.Event()
    server: Server | None = None
    log = run.out / f"{name}.log"
    try:
        model = run.model(setup, dtype)
        flags = [*COMMON, *setup.flags, "--dtype", dtype, "--max-total-tokens", str(setup.tokens)]
        if not run.options.dry_run:
            flags += ["--mem-fraction-static", "0.5"]
        checks = {} if name == "wide" else CHECKS  # which cost a step what is measured there
        env = {
            **checks,
            "SGLANG_JIT_CACHE_DIR": str(run.scratch / "jit"),
            "SGLANG_CUDA_COREDUMP_BEFORE_CRASH_WAIT_SECS": "0",  # a failure is told at once
        }
        begun = time.perf_counter()
        server = Server(model, flags=flags, env=env, timeout=run.left())
        threading.Thread(target=copy_log, args=(server, log, over), daemon=True).start()
        with server:
            result["start_seconds"] = time.perf_counter() - begun
            run.say(f"{name}: up after {result['start_seconds']:.0f} s")
            if name == "wide":
                run.checked.wait(run.left())
                result["timed"] = time_alone(run, server)
            else:
                result |= check(run, server)
            time.sleep(2)  # the check of an idle server
            result["healthy"] = server.answers(timeout=10)
            said = server.log()
        log.write_text(said)
        result["observed"] = observed(said)
        run.say(f"{name}: done")
    except BaseException as error:  # the other servers go on
        result["error"] = f"{type(error).__name__}: {error}"[-6000:]
        result["where"] = traceback.format_exc()[-3000:]
        run.say(f"{name}: {result['error'][-700:]}")
    finally:
        over.set()
        if server is not None and "error" in result:
            with contextlib.suppress(OSError, RuntimeError):
                shutil.copy(server.log_path, log)
        run.write(name, result)
        long = ("answers", "lengths", "where", "setup")
        run.say(json.dumps({k: v for k, v in result.items() if k not in long})[:3500])


#: What SGLang would compile at its first step, one module after another.
KERNELS = """
import torch
from sglang.kernels.jit.utils.compile.parallel import parallel_compile
from sglang.kernels.ops.activation.activation import activation_module
from sglang.kernels.ops.attention.clamp_position import _jit_clamp_position_module
from sglang.kernels.ops.attention.rope import _jit_fused_rope_module
from sglang.kernels.ops.kvcache.kvcache import _jit_kvcache_module
builders = [lambda size=size: _jit_kvcache_module(size, size, 0) for size in (512, 1024)]
for dtype in (torch.int64, torch.int32):
    builders.append(lambda dtype=dtype: _jit_clamp_position_module(dtype))
for dtype in (torch.bfloat16, torch.float32):
    builders += [
        lambda dtype=dtype: activation_module(dtype),
        lambda dtype=dtype: _jit_fused_rope_module(True, 128, dtype, dtype),
    ]
parallel_compile(builders)
"""


def compile_kernels(run: Run) -> None:
    begun = time.perf_counter()
    env = {**os.environ, "SGLANG_JIT_CACHE_DIR": str(run.scratch / "jit")}
    with (run.out / "kernels.log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", KERNELS], env=env, stdout=log, stderr=log, check=False
        )
    run.say(f"kernels: {time.perf_counter() - begun:.0f} s, exit code {done.returncode}")


def machine() -> dict[str, Any]:
    import common_ops

    found: dict[str, Any] = {"torch": torch.__version__, "python": sys.version.split()[0]}
    found["sgl_kernel"] = common_ops.STAND_IN
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name(0)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=DEFAULT, help="servers, by comma")
    parser.add_argument("--questions", type=int, default=48, help="of each mode; nested a third")
    parser.add_argument("--alone", type=int, default=6, help="questions asked one at a time")
    parser.add_argument("--seconds", type=float, default=280, help="stop whatever is not done then")
    parser.add_argument("--models", default="/tmp/multiverse-models", help="where to write models")
    parser.add_argument("--reference", type=Path, help="an earlier result whose answers to compare")
    parser.add_argument("--dry-run", action="store_true", help="float32 on a CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(options)
    run.say(json.dumps(machine()))
    run.write("machine", machine())
    names = options.only.split(",")
    if not options.dry_run:
        threading.Thread(target=compile_kernels, args=(run,), daemon=True).start()
    checks = [n for n in names if n != "wide"]
    threads = {n: threading.Thread(target=serve, args=(run, n), daemon=True) for n in names}
    for thread in threads.values():
        thread.start()
    for name in checks:
        threads[name].join(run.left())
    run.checked.set()
    for thread in threads.values():
        thread.join(run.left())
    late = [name for name, thread in threads.items() if thread.is_alive()]
    if late:
        run.say(f"out of time: {', '.join(late)}")
    failed = [n for n in names if n in late or "error" in json.loads(read(options.out, n))]
    run.say(f"failed: {', '.join(failed) or 'none'}")
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # servers that are still up end with this process


def read(out: Path, name: str) -> str:
    file = out / f"{name}.json"
    return file.read_text() if file.exists() else "{}"


if __name__ == "__main__":
    main()
