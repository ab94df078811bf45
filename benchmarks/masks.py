"""What attention over forked text costs: what it is told, and a training step under it.

    python benchmarks/masks.py [--lengths 2048 8192 32768] [--cap-gib 6] [--repeats 5] [--json]
    python benchmarks/masks.py --show benchmarks/results/masks.json

Prints Markdown, or one JSON object. Memory is the high-water mark of a process of its own (forked,
so Linux or macOS) over where it began. Times on the CPU are of one thread's CPU time, which other
work on the machine disturbs little. The FlexAttention table needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.layout import Layout, layout, pack
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.training.attention import SEGMENTS, enable_multiverse_attention
from sglang_multiverse.training.masks import block_mask, dense_mask
from sglang_multiverse.training.segments import plan

GIB = 2**30
#: Step times are taken up to here: a CPU needs minutes for a longer one.
LONGEST_STEP = 8192


def block(dialect: Dialect, paths: list[list[int]], word: int) -> list[int]:
    """One canonical block over the given bodies."""
    gap = list(dialect.separator)
    ids = [dialect[Tag.PARALLEL], *gap, dialect[Tag.GOAL], *gap]
    for i in range(len(paths)):
        label = [*dialect.ordinal(i), dialect.colon]
        ids += [dialect[Tag.OUTLINE], *gap, *label, *[word] * 8, *gap, dialect[Tag.END_OUTLINE]]
        ids += gap
    ids += [dialect[Tag.END_GOAL], *dialect.goal_tail]
    for i, body in enumerate(paths):
        ids += [*dialect.path_seed(dialect.ordinal(i)), *body]
        ids += [dialect[Tag.END_PATH], *dialect.path_tail]
    ids += [*dialect.conclusion_seed, *[word] * 8, *gap, dialect[Tag.END_CONCLUSION], *gap]
    return [*ids, dialect[Tag.END_PARALLEL], *gap]


def text(length: int, dialect: Dialect, word: int) -> list[int]:
    """``length`` tokens: three blocks of three paths, a block of two inside one path of each."""
    part = length // 20
    inner = block(dialect, [[word] * (part // 2)] * 2, word)
    bodies = [[word] * part, [word] * (part // 2) + inner, [word] * part]
    ids = [word] * part
    for _ in range(3):
        ids += [*block(dialect, bodies, word), *[word] * part]
    return [*ids, *[word] * (length - len(ids))]


def short_paths(length: int, dialect: Dialect, word: int) -> list[int]:
    """``length`` tokens of blocks of three paths of eight words: pieces as small as they get."""
    ids = [word] * 20
    while len(ids) < length:
        ids += [*block(dialect, [[word] * 8] * 3, word), *[word] * 10]
    return ids[:length]


def order_of(laid: Layout) -> torch.Tensor:
    return torch.from_numpy(laid.order)[None].to(torch.int32)


def by_segments(ids: list[int], dialect: Dialect) -> Any:
    return plan(order_of(layout(ids, dialect)))


def by_blocks(ids: list[int], dialect: Dialect) -> Any:
    return block_mask(order_of(layout(ids, dialect)))


def by_booleans(ids: list[int], dialect: Dialect) -> Any:
    return dense_mask(order_of(layout(ids, dialect)))


def by_floats(ids: list[int], dialect: Dialect) -> Any:
    """A float for every pair: -inf over the diagonal, and between the paths of each block."""
    mask = torch.full((len(ids), len(ids)), -torch.inf).triu_(1)
    for found, _ in parse(ids, dialect).walk():
        for i, earlier in enumerate(found.paths):
            for later in found.paths[i + 1 :]:
                mask[later.start : later.end, earlier.start : earlier.end] = -torch.inf
    return mask


def visible_share(ids: list[int], dialect: Dialect) -> float:
    """Visible pairs over causal pairs."""
    hidden = sum(
        (later.end - later.start) * (earlier.end - earlier.start)
        for found, _ in parse(ids, dialect).walk()
        for i, earlier in enumerate(found.paths)
        for later in found.paths[i + 1 :]
    )
    return 1 - hidden / (len(ids) * (len(ids) + 1) / 2)


#: Name, how to build it, bytes for a pair of tokens at its peak.
METHODS: dict[str, tuple[Callable[[list[int], Dialect], Any], float]] = {
    "layout + segments": (by_segments, 0.0),
    "layout + block mask (FlexAttention)": (by_blocks, 0.0),
    "layout + dense booleans (SDPA)": (by_booleans, 1.0),
    "a dense float32 for every pair": (by_floats, 4.0),
}


def _high_water() -> int:
    """Bytes this process has held at most. Linux's own count begins anew where a program is
    started, as that of getrusage does not."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS


def _in_child(measure: Callable[[], Any]) -> Any:
    """What ``measure`` returns in a process of its own, or None where that died."""
    context = multiprocessing.get_context("fork")
    out = context.SimpleQueue()
    child = context.Process(target=lambda: out.put(measure()))
    child.start()
    child.join()
    return out.get() if child.exitcode == 0 else None


def mask_cell(
    method: str, ids: list[int], dialect: Dialect, repeats: int, cap: int
) -> dict[str, Any]:
    """Median CPU seconds and peak memory of building it, or why it was not built."""
    build, size = METHODS[method]
    if size * len(ids) ** 2 > cap:
        return {"not run": f"{size * len(ids) ** 2 / GIB:.0f} GiB, cap {cap / GIB:.0f}"}

    def measure() -> tuple[float, int]:
        torch.set_num_threads(1)
        build(ids[:256], dialect)  # what the first call loads is no part of the mask
        before = _high_water()
        seconds: list[float] = []
        while len(seconds) < repeats and sum(seconds) < 20:
            begun = time.process_time()
            mask = build(ids, dialect)
            seconds.append(time.process_time() - begun)
            del mask
        return statistics.median(seconds), _high_water() - before

    found = _in_child(measure)
    if found is None:
        return {"not run": "its process died"}
    return {"seconds": found[0], "bytes": found[1]}


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _memory(size: float) -> str:
    if size >= GIB:
        return f"{size / GIB:.2f} GiB"
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 / 10 else "under 0.1 MiB"


#: How a step attends: the implementation, and whether the order is given or plain causal.
WAYS = {"causal": ("sdpa", False), "segments": (SEGMENTS, True), "dense mask": ("sdpa", True)}


def step(way: str, ids: list[int], laid: Layout) -> Callable[[], None]:
    """Forward and backward of one row in float32: four layers of width 128, heads two to one."""
    implementation, ordered = WAYS[way]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2**16,
    )
    config._attn_implementation = implementation
    model = enable_multiverse_attention(Qwen2ForCausalLM(config))
    tokens = torch.tensor([ids])
    given = {"input_ids": tokens, "labels": tokens, "use_cache": False}
    if ordered:
        given["position_ids"] = torch.from_numpy(laid.position)[None]
        given["multiverse_order"] = order_of(laid)

    def run() -> None:
        model.zero_grad()
        model(**given).loss.backward()

    return run


def step_times(
    ids: list[int], laid: Layout, repeats: int, ways: Sequence[str] = tuple(WAYS)
) -> dict[str, float]:
    """Median CPU seconds of a step each way."""
    runs = {way: step(way, ids, laid) for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats + 1):  # in turn, so that a busy machine slows all; the first warms up
        for way, run in runs.items():
            begun = time.process_time()
            run()
            seconds[way].append(time.process_time() - begun)
    return {way: statistics.median(kept[1:]) for way, kept in seconds.items()}


def alone(length: int, repeats: int) -> dict[str, float]:
    """Median CPU seconds of SDPA alone, forward and backward, 4 heads of 32: does it leave out what
    a mask hides?"""
    torch.manual_seed(0)
    given = [torch.randn(1, 4, length, 32, requires_grad=True) for _ in range(3)]
    pairs = torch.ones(1, 1, length, length, dtype=torch.bool)
    told: dict[str, dict[str, Any]] = {
        "is_causal": {"is_causal": True},
        "nothing: all pairs": {},
        "a mask that hides nothing": {"attn_mask": pairs},
        "a causal mask": {"attn_mask": pairs.tril()},
    }
    found = {}
    for name, mask in told.items():
        seconds = []
        for _ in range(repeats + 1):
            begun = time.process_time()
            scaled_dot_product_attention(*given, **mask).sum().backward()
            seconds.append(time.process_time() - begun)
        found[name] = statistics.median(seconds[1:])
    return found


def step_memory(way: str, ids: list[int], laid: Layout) -> int:
    """Bytes that one step takes at most, its weights not counted; once in a process, since what
    was freed before counts as held."""
    torch.set_num_threads(1)
    run = step(way, ids, laid)
    step(way, ids[:256], Layout(laid.position[:256], laid.order[:256]))()
    before = _high_water()
    run()
    return _high_water() - before


def step_memory_alone(way: str, length: int) -> int | None:
    """:func:`step_memory` in a fresh process; None where that died, as for want of memory."""
    command = [sys.executable, __file__, "--step-memory", way, "--lengths", str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def rows_of(length: int, dialect: Dialect, word: int) -> dict[str, tuple[list[int], Layout]]:
    """Rows that a step is timed on, by name."""
    one = text(length, dialect, word)
    small = short_paths(length, dialect, word)
    parts = [short_paths(length // 8, dialect, word) for _ in range(8)]
    packed = [token for part in parts for token in part]
    return {
        "three blocks, nested": (one, layout(one, dialect)),
        "paths of 8 words": (small, layout(small, dialect)),
        "eight texts packed": (packed, pack([layout(part, dialect) for part in parts])),
    }


def on_gpu(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds of ``call`` on the GPU, after two to warm up."""
    seconds = []
    for i in range(repeats + 2):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        call()
        ended.record()
        torch.cuda.synchronize()
        if i >= 2:
            seconds.append(begun.elapsed_time(ended) / 1000)
    return statistics.median(seconds)


def kernel_row(ids: list[int], dialect: Dialect, repeats: int) -> list[str]:
    """Forward and forward with backward of one bf16 layer: by order, causal Flex, causal SDPA."""
    n = len(ids)
    torch.manual_seed(0)
    torch._dynamo.reset()  # past its limit of recompilations it would fall back to all pairs
    query, key, value = (
        torch.randn(1, heads, n, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads in (16, 4, 4)
    )
    order = order_of(layout(ids, dialect)).to("cuda")

    def before(_b: Any, _h: Any, q: Any, k: Any) -> Any:
        return q >= k

    flexible = torch.compile(flex_attention, dynamic=False)
    forked = block_mask(order)
    causal = create_block_mask(before, None, None, n, n, device="cuda")
    attentions: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: flexible(query, key, value, block_mask=forked, enable_gqa=True),
        lambda: flexible(query, key, value, block_mask=causal, enable_gqa=True),
        lambda: scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True),
    )
    cells = [_time(on_gpu(lambda: block_mask(order), repeats))]
    for attend in attentions:

        def both(attend: Callable[[], torch.Tensor] = attend) -> None:
            attend().sum().backward()

        with torch.no_grad():
            forward = on_gpu(attend, repeats)
        cells.append(f"{_time(forward)}, {_time(on_gpu(both, repeats))}")
    return cells


def table(head: list[str], rows: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    load = os.getloadavg()[0]
    return (
        f"{name or platform.machine()}, {os.cpu_count()} cores of which one is used, load "
        f"{load:.1f} at the start; torch {torch.__version__}, Python {platform.python_version()}"
    )


def cell(found: dict[str, Any]) -> str:
    if "not run" in found:
        return f"not run: {found['not run']}"
    return f"{_time(found['seconds'])}, {_memory(found['bytes'])}"


def measured(args: argparse.Namespace, dialect: Dialect, word: int) -> dict[str, Any]:
    """All that a CPU can show."""
    torch.set_num_threads(1)
    cap = int(args.cap_gib * GIB)
    texts = {length: text(length, dialect, word) for length in args.lengths}
    found: dict[str, Any] = {
        "hardware": hardware(),
        "visible share": {n: visible_share(ids, dialect) for n, ids in texts.items()},
        "masks": {
            name: {n: mask_cell(name, ids, dialect, args.repeats, cap) for n, ids in texts.items()}
            for name in METHODS
        },
        "steps": [],
        "memory": {},
        "alone": {n: alone(n, args.repeats) for n in args.lengths if n <= LONGEST_STEP},
    }
    for length in args.lengths:
        if length <= LONGEST_STEP:
            for name, (ids, laid) in rows_of(length, dialect, word).items():
                seconds = step_times(ids, laid, args.repeats)
                ratios = {
                    f"{way} / causal": seconds[way] / seconds["causal"]
                    for way in WAYS
                    if way != "causal"
                }
                found["steps"].append({"row": name, "tokens": length, "seconds": seconds, **ratios})
        # SDPA makes floats of the dense booleans.
        ways = [way for way in WAYS if way != "dense mask" or 5 * length**2 <= cap]
        found["memory"][length] = {way: step_memory_alone(way, length) for way in ways}
    return found


def show(found: dict[str, Any]) -> None:
    """The tables."""
    print(f"{found['hardware']}\n")
    shares = found["visible share"]
    lengths = [f"{length} tokens" for length in shares]
    print(f"Visible of the causal pairs: {', '.join(f'{one:.0%}' for one in shares.values())}.")
    print("What attention is told, from the ids of one text: median CPU time, peak memory.\n")
    rows = [[name, *map(cell, cells.values())] for name, cells in found["masks"].items()]
    table(["told by", *lengths], rows)
    print("Forward and backward on the CPU, float32, 4 layers of width 128: median CPU time.\n")
    rows = [
        [one["row"], str(one["tokens"]), *(_time(one["seconds"][way]) for way in WAYS)]
        + [f"{one[f'{way} / causal']:.2f}" for way in WAYS if way != "causal"]
        for one in found["steps"]
    ]
    others = [f"{way} ÷ causal" for way in WAYS if way != "causal"]
    table(["row", "tokens", *WAYS, *others], rows)
    print("SDPA alone, forward and backward, 4 heads of 32: median CPU time by what it is told.\n")
    head = ["tokens", *next(iter(found["alone"].values()))]
    rows = [[str(n), *map(_time, cells.values())] for n, cells in found["alone"].items()]
    table(head, rows)
    print("Memory of such a step over its weights, a text of three nested blocks.\n")
    rows = [
        [
            way,
            *(
                _memory(held) if (held := cells.get(way)) is not None else "not run"
                for cells in found["memory"].values()
            ),
        ]
        for way in WAYS
    ]
    table(["way", *lengths], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--cap-gib", type=float, default=6.0, help="build no mask larger than this")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object, of the CPU alone")
    parser.add_argument("--show", type=Path, help="the tables of an earlier --json")
    parser.add_argument("--step-memory", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.show:
        show(json.loads(args.show.read_text(encoding="utf-8")))
        return
    if min(args.lengths) < 2048:
        parser.error("the blocks of the text need 2048 tokens")
    dialect = Dialect.from_tokenizer(AutoTokenizer.from_pretrained(MODEL_DIR))
    word = next(i for i in range(1000) if i not in dialect.tag_of and i != dialect.colon)
    if args.step_memory:
        ids = text(args.lengths[0], dialect, word)
        print(step_memory(args.step_memory, ids, layout(ids, dialect)))
        return
    found = measured(args, dialect, word)
    if args.json:
        print(json.dumps(found))
        return
    show(found)
    if not torch.cuda.is_available():
        print("FlexAttention, bf16, compiled: no GPU, not run.")
        return
    print(f"One layer on {torch.cuda.get_device_name()}, bf16, 16 query and 4 key heads of 128:")
    print("median time of forward, and of forward with backward.\n")
    texts = [text(length, dialect, word) for length in args.lengths]
    rows = [[str(len(ids)), *kernel_row(ids, dialect, args.repeats)] for ids in texts]
    head = ["tokens", "building the block mask", "Flex by order", "Flex causal", "SDPA causal"]
    table(head, rows)


if __name__ == "__main__":
    main()
