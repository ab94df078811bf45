"""What a mask of forked text costs: memory, time to build, and a training step under it.

    python benchmarks/masks.py [--lengths 2048 8192 32768] [--cap-gib 6] [--repeats 5]

Prints Markdown. Each mask is built in a process of its own (forked, so Linux or macOS), and its
memory is that process's high-water mark over where it began. Times on the CPU are of one thread's
CPU time, which other work on the machine disturbs little. The FlexAttention table needs a GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.layout import layout
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.training.attention import (
    block_mask,
    dense_mask,
    enable_multiverse_attention,
)

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


def by_blocks(ids: list[int], dialect: Dialect) -> Any:
    order = torch.from_numpy(layout(ids, dialect).order)[None].to(torch.int32)
    return block_mask(order)


def by_booleans(ids: list[int], dialect: Dialect) -> Any:
    order = torch.from_numpy(layout(ids, dialect).order)[None].to(torch.int32)
    return dense_mask(order)


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
    "layout + block mask (FlexAttention)": (by_blocks, 0.0),
    "layout + dense booleans (SDPA)": (by_booleans, 1.0),
    "a dense float32 for every pair": (by_floats, 4.0),
}


def _high_water() -> int:
    """Bytes this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _measure(
    method: str, ids: list[int], dialect: Dialect, repeats: int, out: multiprocessing.SimpleQueue
) -> None:
    torch.set_num_threads(1)
    build = METHODS[method][0]
    build(ids[:256], dialect)  # what the first call loads is no part of the mask
    before = _high_water()
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < 20:
        begun = time.process_time()
        mask = build(ids, dialect)
        seconds.append(time.process_time() - begun)
        del mask
    out.put((statistics.median(seconds), _high_water() - before))


def mask_cell(method: str, ids: list[int], dialect: Dialect, repeats: int, cap: int) -> str:
    """Median CPU seconds and peak memory, measured in a child, or why not."""
    needed = METHODS[method][1] * len(ids) ** 2
    if needed > cap:
        return f"not run: {needed / GIB:.0f} GiB, cap {cap / GIB:.0f}"
    context = multiprocessing.get_context("fork")
    out = context.SimpleQueue()
    child = context.Process(target=_measure, args=(method, ids, dialect, repeats, out))
    child.start()
    child.join()
    if child.exitcode != 0:
        return f"failed with exit status {child.exitcode}"
    seconds, peak = out.get()
    return f"{_time(seconds)}, {_memory(peak)}"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _memory(size: float) -> str:
    if size >= GIB:
        return f"{size / GIB:.2f} GiB"
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 / 10 else "under 0.1 MiB"


def step_times(ids: list[int], dialect: Dialect, repeats: int) -> tuple[float, float]:
    """Median CPU seconds of forward and backward: by order, and causal on the same tokens."""
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
    config._attn_implementation = "sdpa"
    model = enable_multiverse_attention(Qwen2ForCausalLM(config))
    laid = layout(ids, dialect)
    tokens = torch.tensor([ids])
    causal = {"input_ids": tokens, "labels": tokens, "use_cache": False}
    forked = {
        **causal,
        "position_ids": torch.from_numpy(laid.position)[None],
        "multiverse_order": torch.from_numpy(laid.order)[None].to(torch.int32),
    }
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):  # in turn, so that a busy machine slows both; the first warms up
        for given, kept in zip((forked, causal), seconds, strict=True):
            model.zero_grad()
            begun = time.process_time()
            model(**given).loss.backward()
            kept.append(time.process_time() - begun)
    by_order, by_position = (statistics.median(kept[1:]) for kept in seconds)
    return by_order, by_position


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
    order = torch.from_numpy(layout(ids, dialect).order)[None].to("cuda", torch.int32)

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--cap-gib", type=float, default=6.0, help="build no mask larger than this")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if min(args.lengths) < 2048:
        parser.error("the blocks of the text need 2048 tokens")
    dialect = Dialect.from_tokenizer(AutoTokenizer.from_pretrained(MODEL_DIR))
    word = next(i for i in range(1000) if i not in dialect.tag_of and i != dialect.colon)
    texts = [text(length, dialect, word) for length in args.lengths]
    print(f"{hardware()}\n")

    cap = int(args.cap_gib * GIB)
    rows = [
        [name, *(mask_cell(name, ids, dialect, args.repeats, cap) for ids in texts)]
        for name in METHODS
    ]
    shares = ", ".join(f"{visible_share(ids, dialect):.0%}" for ids in texts)
    print(f"Visible of the causal pairs: {shares}.")
    print("Mask of one text, from its ids: median CPU time, peak memory.\n")
    table(["mask", *(f"{len(ids)} tokens" for ids in texts)], rows)

    torch.set_num_threads(1)
    rows = []
    for ids in texts:
        if len(ids) > LONGEST_STEP:
            rows.append([str(len(ids)), "not run: minutes on a CPU", "", ""])
            continue
        forked, causal = step_times(ids, dialect, args.repeats)
        rows.append([str(len(ids)), _time(forked), _time(causal), f"{forked / causal:.2f}"])
    print(
        "Forward and backward, SDPA on the CPU, float32, 4 layers of width 128: median CPU time.\n"
    )
    table(["tokens", "by order", "causal", "ratio"], rows)

    if not torch.cuda.is_available():
        print("FlexAttention, bf16, compiled: no GPU, not run.")
        return
    print(f"One layer on {torch.cuda.get_device_name()}, bf16, 16 query and 4 key heads of 128:")
    print("median time of forward, and of forward with backward.\n")
    rows = [[str(len(ids)), *kernel_row(ids, dialect, args.repeats)] for ids in texts]
    head = ["tokens", "building the block mask", "Flex by order", "Flex causal", "SDPA causal"]
    table(head, rows)


if __name__ == "__main__":
    main()
