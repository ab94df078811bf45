"""Decoding of paths that share, by recomputation: what an engine would have to wait for and see."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.engine.node import Node
from sglang_multiverse.engine.tree import Tree
from sglang_multiverse.layout import layout_of
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.tiny.factory.exam import encode
from sglang_multiverse.tiny.task import generate
from sglang_multiverse.training.attention import enable_multiverse_attention
from sglang_multiverse.training.collator import injected
from sglang_multiverse.training.decode import advance, fork_join_decode, live, predict, start

from ..core.generate import DIALECT, WORD


@pytest.fixture(scope="module")
def shipped() -> tuple[PreTrainedModel, Any]:
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(MODEL_DIR)


FORK = [Tag.PARALLEL, Tag.GOAL, *[Tag.OUTLINE, Tag.END_OUTLINE] * 2, Tag.END_GOAL]
JOINED = [Tag.END_CONCLUSION, Tag.END_PARALLEL]
END = 63


class Script:
    """Two blocks with paths of random lengths, written for a random model."""

    def __init__(self, seed: int, every: int):
        self.random = Random(seed)
        self.tree = start([WORD], DIALECT, every)
        trunk = [*self.words(), *self.block(), *self.words(), *self.block(), END]
        self.left = {self.tree.root: trunk}
        self.forks: list[list[Node]] = []
        self.guessed: dict[tuple[Node, int], int] = {}

    def words(self) -> list[int]:
        return [self.random.randint(WORD, WORD + 5) for _ in range(self.random.randint(0, 12))]

    def block(self) -> list[int]:
        return [int(token) for token in (*FORK, *self.words(), *JOINED)]

    def run(self, model: PreTrainedModel) -> int:
        """Write it all, and keep what the model would have written; the steps taken."""
        steps = 0
        while not self.tree.over:
            (guesses,) = predict(model, [self.tree])
            for node, guess in guesses.items():
                self.guessed[node, len(node.tokens) - 1] = guess
            advance(self.tree, {node: self.left[node].pop(0) for node in guesses}, END)
            kids = self.tree.root.kids
            if kids and kids[0] not in self.left:
                self.forks.append(list(kids))
                self.left.update((kid, [*self.words(), int(Tag.END_PATH)]) for kid in kids)
            steps += 1
        return steps


@pytest.mark.parametrize("every", [1, 4, 16])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_predicted_on_the_way_is_what_the_finished_text_predicts(make_model, seed, every):
    """A path has waited for all that it sees, and has seen nothing else."""
    script = Script(seed, every)
    model = enable_multiverse_attention(make_model(multiverse={"layout": 1, "share_every": every}))
    steps = script.run(model)
    ids = list(script.tree.root.tokens)
    trace = parse(ids, DIALECT)
    assert trace.n_paths == 4
    laid = layout_of(trace, share_every=every)
    assert steps <= len(ids)
    given = {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.from_numpy(laid.position)[None],
        "multiverse_order": torch.from_numpy(laid.order)[None],
        "multiverse_rank": torch.from_numpy(laid.ranks)[None],
    }
    chosen = model(**given).logits[0].argmax(-1).tolist()
    begun = {script.tree.root: 0}
    for block, kids in zip(trace.blocks, script.forks, strict=True):
        begun |= {kid: path.start for kid, path in zip(kids, block.paths, strict=True)}
    for (node, offset), guess in script.guessed.items():
        assert chosen[begun[node] + offset] == guess
    assert len(script.guessed) == sum(not made for made in injected(trace, ids, DIALECT)[1:])


def test_a_path_that_is_ahead_waits_for_its_siblings(shipped):
    _, tokenizer = shipped
    dialect = Dialect.from_tokenizer(tokenizer)
    prompt, answer = encode(next(generate(12, "test", {"compare": 1.0})), "parallel", tokenizer)
    goal = answer[: answer.index(dialect[Tag.END_GOAL]) + 1]
    word = tokenizer.encode(" ")[0]

    def forked(every: int) -> Tree:
        tree = start(prompt, dialect, every)
        for token in goal:
            advance(tree, {tree.root: token}, -1)
        return tree

    def moving(tree: Tree) -> list[bool]:
        some = set(live(tree))
        return [kid in some for kid in tree.root.kids]

    tree = forked(8)
    first, *rest = tree.root.kids
    everyone = [True] * (1 + len(rest))
    while len(first.tokens) % 8:  # to the end of a chunk
        assert moving(tree) == everyone
        advance(tree, {first: word}, -1)
    assert moving(tree) == everyone
    advance(tree, {first: word}, -1)
    assert moving(tree) == [False] + [True] * len(rest)
    for kid in rest:
        while len(kid.tokens) < len(first.tokens):
            assert moving(tree)[0] is False
            advance(tree, {kid: word}, -1)
    assert moving(tree) == everyone
    advance(tree, {rest[0]: dialect[Tag.END_PATH]}, -1)  # who has ended keeps nobody waiting
    assert moving(tree) == [True, False, *[True] * (len(rest) - 1)]
    patient = forked(10**6)
    for _ in range(40):
        advance(patient, {patient.root.kids[0]: word}, -1)
    assert moving(patient) == everyone


def test_an_end_of_text_in_a_path_closes_it_as_the_engine_does(shipped):
    _, tokenizer = shipped
    dialect = Dialect.from_tokenizer(tokenizer)
    prompt, answer = encode(next(generate(12, "test", {"compare": 1.0})), "parallel", tokenizer)
    tree = start(prompt, dialect)
    for token in answer[: answer.index(dialect[Tag.END_GOAL]) + 1]:
        advance(tree, {tree.root: token}, tokenizer.eos_token_id)
    while tree.root.kids:
        advance(tree, dict.fromkeys(tree.root.kids, tokenizer.eos_token_id), tokenizer.eos_token_id)
    assert not tree.over
    trace = parse(list(tree.root.tokens), dialect)
    assert [block.joined for block in trace.blocks] == [True]
    assert tokenizer.eos_token_id not in tree.root.tokens[len(prompt) :]
    advance(tree, {tree.root: tokenizer.eos_token_id}, tokenizer.eos_token_id)
    assert tree.over


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
