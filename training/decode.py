"""Fork/join decoding by plain recomputation: slow, and right by inspection.

The engine's own :class:`~sglang_multiverse.engine.tree.Tree` says what forks, ends and joins. The
next token of every path is the prediction at its end in the whole text of the moment, laid out like
any text. A check on the engine's rows and on trained models, not a way to serve them: every step
runs the model over whole texts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..dialect import Dialect
from ..engine.node import Node, State
from ..engine.options import EngineOptions
from ..engine.sharing import reached
from ..engine.tree import Outcome, Tree
from ..layout import check_share_every, layout_of, pack, plain
from .attention import enable_multiverse_attention


def fork_join_decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    dialect: Dialect,
    *,
    eos: int,
    max_steps: int = 1024,
    batch_size: int = 64,
    share_every: int | None = None,
) -> list[tuple[list[int], int]]:
    """Greedy answers to ``prompts``, each with the decoding steps it took.

    Args:
        batch_size: texts in one forward.
        share_every: of the layout that the model was trained with. A path that has written a chunk
            then waits until its siblings have ended or come as far.

    Returns:
        For each prompt the token ids after it in canonical order, and the number of steps in which
        all its live paths that do not wait, whatever their number, each gained a token.

    Raises:
        PromptError: a prompt ends inside a block that has forked.
    """
    check_share_every(share_every)
    enable_multiverse_attention(model)
    model.eval()
    trees = [start(prompt, dialect, share_every) for prompt in prompts]
    steps = [0] * len(trees)
    for _ in range(max_steps):
        going = [i for i, tree in enumerate(trees) if not tree.over]
        if not going:
            break
        for at in range(0, len(going), batch_size):
            some = going[at : at + batch_size]
            for i, chosen in zip(some, predict(model, [trees[i] for i in some]), strict=True):
                advance(trees[i], chosen, eos)
                steps[i] += 1
    return [
        (tree.trace()[0][tree.prompt_len :].tolist(), n)
        for tree, n in zip(trees, steps, strict=True)
    ]


def start(prompt: Sequence[int], dialect: Dialect, share_every: int | None = None) -> Tree:
    """The tree of a request without bounds."""
    options = EngineOptions(max_branches=None, max_depth=None, share_every=share_every)
    tree = Tree(prompt, dialect, options, max_new_tokens=sys.maxsize)
    tree.begin()
    _proceed(tree)
    return tree


def live(tree: Tree) -> Iterator[Node]:
    """The nodes that await a token and do not wait for a sibling's."""
    every = tree.share_every
    for node in tree.nodes():
        if node.state is not State.RUNNING:
            continue
        alone = every is None or node.parent is None
        if alone or (len(node.tokens) - 1) // every <= reached(node.parent, every):
            yield node


@torch.no_grad()
def predict(model: Any, trees: Sequence[Tree]) -> list[dict[Node, int]]:
    """For each tree the likeliest next token of every live node."""
    traces = [tree.trace() for tree in trees]
    length = max(len(tokens) for tokens, _, _ in traces)
    laid = [
        pack([layout_of(trace, share_every=tree.share_every), plain(length - trace.length)])
        for tree, (_, trace, _) in zip(trees, traces, strict=True)
    ]
    inputs = {
        "input_ids": torch.tensor(
            [[*tokens, *[0] * (length - len(tokens))] for tokens, _, _ in traces]
        ),
        "position_ids": torch.stack([torch.from_numpy(one.position) for one in laid]),
        "multiverse_order": torch.stack([torch.from_numpy(one.order) for one in laid]).int(),
    }
    if any(tree.share_every is not None for tree in trees):
        inputs["multiverse_rank"] = torch.stack([torch.from_numpy(one.ranks) for one in laid]).int()
    on_device = {name: value.to(model.device) for name, value in inputs.items()}
    guess = model(**on_device, use_cache=False).logits.argmax(-1).tolist()
    return [
        {node: row[starts[node] + len(node.tokens) - 1] for node in live(tree)}
        for tree, (_, _, starts), row in zip(trees, traces, guess, strict=True)
    ]


def advance(tree: Tree, chosen: dict[Node, int], eos: int) -> None:
    """Let every node of ``chosen`` take its token; an end of text ends a path as an engine ends
    it, and in the trunk the answer."""
    for node, token in chosen.items():
        outcome = tree.accept(node, token)
        if outcome is Outcome.CONTINUE and token == eos:
            if node.parent is None:
                tree.end()
            else:
                tree.end_path(node, replace=True)
    _proceed(tree)


def _proceed(tree: Tree) -> None:
    """Join what can be joined; every node that a scheduler would give a row has one at once."""
    for node in reversed(list(tree.nodes())):
        if tree.ready_to_join(node):
            tree.join(node)
        if node.state in (State.QUEUED, State.SHARING, State.RESUMING):
            node.state = State.RUNNING
    tree.emit()  # the trunk counts on its stream being read


__all__ = ["advance", "fork_join_decode", "live", "predict", "start"]
