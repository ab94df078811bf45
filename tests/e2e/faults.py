"""A scripted model with a fault: somewhere in fork and join, its request raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_multiverse.engine.tree import Tree
from sglang_multiverse.patches.active import coordinator
from sglang_multiverse.patches.rows import launch as rows
from sglang_multiverse.patches.rows.branch import Branch

from .client import Client, ServerError
from .script import Forced

#: Methods of one request's tree.
OF_TREE = ("accept", "_fork", "end_path", "join", "emit", "trace", "written", "cut")
#: Functions that are given a branch of it.
OF_POOL = ("park", "visible", "drop")
#: Steps of its rows.
OF_ROWS = ("Seed.open", "Seed.settle", "Tail.open", "Tail.settle", "Resume.open", "Resume.settle")
FAULTS = (*OF_TREE, *OF_POOL, *OF_ROWS)
#: What can fail without the answer failing: its figures, and what only an abort asks for.
HARMLESS = {"trace", "cut", "written", "drop"}


class Fault(RuntimeError):
    pass


def _boom(*args: Any, **kwargs: Any) -> Any:
    raise Fault("a fault was asked for")


def _plant(tree: Tree, name: str) -> None:
    if getattr(tree, "faulty", None):
        return
    tree.faulty = name  # type: ignore[attr-defined]
    if name in OF_TREE:
        setattr(tree, name, _boom)
        return
    active = coordinator()
    assert active is not None
    if name in OF_POOL:
        _guard(active.pool, name)
    else:
        kind, step = name.split(".")
        _guard(getattr(rows, kind), step)


def _guard(owner: Any, name: str) -> None:
    """Make ``owner.name`` raise, once, for branches and rows of trees that bear this fault."""
    whole = getattr(owner, name)
    if hasattr(whole, "original"):
        return
    label = name if name in OF_POOL else f"{owner.__name__}.{name}"

    def guarded(*args: Any, **kwargs: Any) -> Any:
        for argument in args:
            branch = argument if isinstance(argument, Branch) else getattr(argument, "branch", None)
            if isinstance(branch, Branch) and getattr(branch.tree, "faulty", None) == label:
                branch.tree.faulty = "was"  # type: ignore[attr-defined]
                raise Fault("a fault was asked for")
        return whole(*args, **kwargs)

    guarded.original = whole  # type: ignore[attr-defined]
    setattr(owner, name, guarded)


class Faulty(Forced):
    """As ``Forced``, and plants the fault named ``custom_params["fault"]`` into its request."""

    def __call__(self, logits: Any, custom_param_list: Any) -> Any:
        for params in custom_param_list:
            mark = params["__req__"].__dict__.get("multiverse")
            if isinstance(mark, Branch) and params.get("fault"):
                _plant(mark.tree, params["fault"])
        return super().__call__(logits, custom_param_list)


def end_alone(
    server: Client, make: Callable[[int], tuple[list[int], int]], eos: int, fault: str
) -> None:
    """Nine answers at once, three of them with ``fault``: those end, the others are right.

    Args:
        make: the text of a seed, and how many of its tokens are the prompt.
    """

    def ask(seed: int, faulty: bool) -> object:
        script, prompt_len = make(seed)
        custom = {"script": script, "eos": eos, **({"fault": fault} if faulty else {})}
        try:
            answer = server.generate(
                script[:prompt_len],
                custom_logit_processor=Faulty.to_str(),
                custom_params=custom,
            )
        except ServerError as error:
            return str(error)
        assert answer["output_ids"] == [*script[prompt_len:], eos]
        return answer["meta_info"]["finish_reason"]["type"]

    calls = [(lambda s=s: ask(s, s % 3 == 0)) for s in range(600, 609)]
    results = server.at_once(calls)
    for i, result in enumerate(results):
        if (600 + i) % 3:
            assert result == "stop"
        elif fault not in HARMLESS:
            assert "HTTP 500" in str(result), result
            assert "Fork and join failed" in str(result)
    assert ask(600, False) == "stop"
    server.assert_sound()
