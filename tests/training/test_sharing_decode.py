"""Decoding of paths that share, by recomputation: what an engine would have to wait for and see."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.layout import layout_of
from sglang_multiverse.structure import Block, Sequencer, parse
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.tiny.task import generate
from sglang_multiverse.training.attention import enable_multiverse_attention
from sglang_multiverse.training.collator import injected
from sglang_multiverse.training.decode import Row, fork_join_decode, next_together
from sglang_multiverse.training.tiny_eval import encode

from ..core.generate import DIALECT, WORD


@pytest.fixture(scope="module")
def shipped() -> tuple[PreTrainedModel, Any]:
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(MODEL_DIR)


FORK = [Tag.PARALLEL, Tag.GOAL, *[Tag.OUTLINE, Tag.END_OUTLINE] * 2, Tag.END_GOAL]
JOINED = [Tag.END_CONCLUSION, Tag.END_PARALLEL]
END = 63


class Script:
    """Paths of random lengths, some with blocks of their own, written for a random model."""

    def __init__(self, seed: int):
        self.random = Random(seed)
        self.trunk = Row([WORD], 1, Sequencer(DIALECT))
        self.left = {id(self.trunk): [*self.words(), *self.block(), *self.words(), END]}
        self.forks: dict[int, list[list[Row]]] = {}
        self.guessed: dict[tuple[int, int], int] = {}

    def words(self) -> list[int]:
        return [self.random.randint(WORD, WORD + 5) for _ in range(self.random.randint(0, 12))]

    def block(self) -> list[int]:
        return [int(token) for token in (*FORK, *self.words(), *JOINED)]

    def path(self, row: Row) -> list[int]:
        nested = row.sequencer.depth < 3 and self.random.random() < 0.4
        return [*self.words(), *(self.block() if nested else ()), *self.words(), int(Tag.END_PATH)]

    def run(self, model: PreTrainedModel, every: int) -> int:
        """Write it all, and keep what the model would have written; the steps taken."""
        steps = 0
        while self.trunk.live():
            for row, guess in next_together(model, [self.trunk], DIALECT, 1, share_every=every):
                self.guessed[id(row), len(row.tokens) - 1 - row.start] = guess
                row.take(self.left[id(row)].pop(0), DIALECT, END)
                if row.forked:
                    self.forks.setdefault(id(row), []).append(row.forked)
                    self.left.update((id(path), self.path(path)) for path in row.forked)
            self.trunk.join(DIALECT)
            steps += 1
        return steps

    def starts(self, blocks: list[Block], row: Row) -> dict[int, int]:
        """Where the own tokens of each row stand in the finished text."""
        found: dict[int, int] = {}
        for block, rows in zip(blocks, self.forks.get(id(row), []), strict=True):
            for path, inner in zip(block.paths, rows, strict=True):
                found |= {id(inner): path.start, **self.starts(path.blocks, inner)}
        return found


@pytest.mark.parametrize("every", [1, 4, 16])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_predicted_on_the_way_is_what_the_finished_text_predicts(make_model, seed, every):
    """A path has waited for all that it sees, and has seen nothing else."""
    script = Script(seed)
    model = enable_multiverse_attention(make_model(multiverse={"layout": 1, "share_every": every}))
    steps = script.run(model, every)
    ids = script.trunk.tokens
    trace = parse(ids, DIALECT)
    assert trace.n_paths >= 2
    laid = layout_of(trace, share_every=every)
    assert steps <= len(ids)
    given = {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.from_numpy(laid.position)[None],
        "multiverse_order": torch.from_numpy(laid.order)[None],
        "multiverse_rank": torch.from_numpy(laid.ranks)[None],
    }
    chosen = model(**given).logits[0].argmax(-1).tolist()
    start = {id(script.trunk): script.trunk.start, **script.starts(trace.blocks, script.trunk)}
    for (row, offset), guess in script.guessed.items():
        assert chosen[start[row] + offset] == guess
    assert len(script.guessed) == sum(
        not made for made in injected(trace, ids, DIALECT)[script.trunk.start :]
    )


def test_a_path_that_is_ahead_waits_for_its_siblings(shipped):
    model, tokenizer = shipped
    enable_multiverse_attention(model)
    dialect = Dialect.from_tokenizer(tokenizer)
    prompt, answer = encode(next(generate(12, "test", {"compare": 1.0})), "parallel", tokenizer)
    trunk = Row(list(prompt), len(prompt), Sequencer(dialect))
    for token in answer[: answer.index(dialect[Tag.END_GOAL]) + 1]:
        trunk.take(token, dialect, tokenizer.eos_token_id)
    first, *rest = trunk.forked
    word = tokenizer.encode(" ")[0]

    def moving(every: int) -> list[bool]:
        chosen = [row for row, _ in next_together(model, [trunk], dialect, 1, share_every=every)]
        return [any(row is one for one in chosen) for row in trunk.forked]

    ahead = len(first.tokens) - first.start
    while ahead % 8:  # to the end of a chunk
        assert moving(8) == [True] * len(trunk.forked)
        first.take(word, dialect, -1)
        ahead += 1
    assert moving(8) == [True] * len(trunk.forked)
    first.take(word, dialect, -1)
    assert moving(8) == [False] + [True] * len(rest)
    assert moving(10**6) == [True] * len(trunk.forked)
    for row in rest:
        for _ in range(ahead + row.start - len(row.tokens)):
            assert moving(8)[0] is False
            row.take(word, dialect, -1)
    assert moving(8) == [True] * len(trunk.forked)
    rest[0].take(dialect[Tag.END_PATH], dialect, -1)  # who has ended keeps nobody waiting
    assert moving(8)[1] is False


def test_one_chunk_alone_is_decoding_without_sharing(shipped):
    model, tokenizer = shipped
    dialect = Dialect.from_tokenizer(tokenizer)
    prompt = encode(next(generate(12, "test", {"compare": 1.0})), "parallel", tokenizer)[0]
    apart, together = (
        fork_join_decode(
            model, [prompt], dialect, eos=tokenizer.eos_token_id, max_steps=90, share_every=every
        )
        for every in (None, 10**6)
    )
    assert together == apart
