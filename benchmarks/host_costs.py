"""What fork and join cost the scheduler's thread on a long prompt, beside the forward passes.

    python benchmarks/host_costs.py [--tokens 100000] [--paths 16]

Needs the serve extra and no server; prints a Markdown table, milliseconds, best of some repeats.
"""

from __future__ import annotations

import argparse
import copy
import time
from array import array
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.sampling.sampling_params import SamplingParams
from transformers import AutoTokenizer

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.engine.options import EngineOptions
from sglang_multiverse.engine.tree import State, Tree
from sglang_multiverse.layout import segments
from sglang_multiverse.patches.rows import branch as branches
from sglang_multiverse.patches.rows.branch import Branch, path_request
from sglang_multiverse.patches.rows.launch import pieces
from sglang_multiverse.tiny import MODEL_DIR

REPEATS = 5
CHUNK = 8192


def best(action: Callable[[], Any]) -> float:
    """Milliseconds of the fastest of some runs."""
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return 1000 * min(times)


def goal(dialect: Dialect, paths: int, word: int) -> list[int]:
    outline = [dialect[Tag.OUTLINE], word, dialect[Tag.END_OUTLINE]]
    return [dialect[Tag.PARALLEL], dialect[Tag.GOAL], *paths * outline, dialect[Tag.END_GOAL]]


def structured(dialect: Dialect, word: int, tokens: int) -> array[int]:
    """A conversation of ``tokens`` tokens, nearly all of them in finished blocks of four paths."""
    path = [word] * 500
    block = [*goal(dialect, 4, word), *dialect.goal_tail]
    for i in range(4):
        block += [*dialect.path_seed(dialect.ordinal(i)), *path, dialect[Tag.END_PATH]]
        block += dialect.path_tail
    block += [
        *dialect.conclusion_seed,
        word,
        dialect[Tag.END_CONCLUSION],
        dialect[Tag.END_PARALLEL],
    ]
    return array("q", (block * (tokens // len(block) + 1))[: tokens // len(block) * len(block)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--paths", type=int, default=16)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    dialect = Dialect.from_tokenizer(tokenizer)
    word, options, room = 400, EngineOptions(), 1 << 30
    branches.get_exec = lambda: SimpleNamespace(
        deterministic=SimpleNamespace(enable_deterministic_inference=False)
    )
    plain = array("q", [word]) * args.tokens
    blocks = structured(dialect, word, args.tokens)
    rows: list[tuple[str, float]] = []

    rows.append(("a plain prompt enters", best(lambda: Tree(plain, dialect, options, room))))
    rows.append(
        ("a prompt of finished blocks enters", best(lambda: Tree(blocks, dialect, options, room)))
    )

    def forked() -> tuple[Tree, Branch]:
        tree = Tree(plain, dialect, options, room)
        root = tree.root.handle = Branch(tree, tree.root)
        params = SamplingParams(max_new_tokens=room)
        params.normalize(tokenizer)
        root.req = Req("r", "", copy.copy(plain), params, eos_token_ids={2}, vocab_size=8192)
        root.req.tokenizer = tokenizer
        for token in goal(dialect, args.paths, word):
            tree.accept(tree.root, token)
        for kid in tree.root.kids:
            kid.handle = Branch(tree, kid)
        return tree, root

    def requests() -> None:
        root.context = None
        for kid in tree.root.kids:
            path_request(kid.handle).refresh_fill_ids()

    tree, root = forked()
    slots = torch.arange(args.tokens)
    table = torch.zeros(args.paths, args.tokens + 64, dtype=torch.int32)

    def page_rows() -> None:
        for i in range(args.paths):
            table[i, : args.tokens] = slots.to(torch.int32)

    rows.append((f"{args.paths} requests for the paths of a fork", best(requests)))
    rows.append((f"{args.paths} page-table rows with the prompt's slots", best(page_rows)))

    waiting = Tree(blocks, dialect, options, room)
    waiting.root.state, waiting.root.pending = State.RESUMING, 1
    rows.append(("a step while a replay waits", best(waiting.written)))

    def laid() -> None:
        tokens, trace, _ = waiting.trace(written_only=True)
        for segment in segments(trace):
            for piece in pieces(segment, CHUNK):
                ids = array("q")
                for start, end in (*piece.prefix, (piece.start, piece.end)):
                    ids += tokens[start:end]

    rows.append(("a replay is laid out and its rows' ids put together", best(laid)))
    print(f"{args.tokens} tokens, {args.paths} paths, milliseconds\n")
    print("| what | ms |\n|---|---|")
    for what, ms in rows:
        print(f"| {what} | {ms:.2f} |")


if __name__ == "__main__":
    main()
