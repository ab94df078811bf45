"""The tasks of inspect-ai: ``inspect eval sglang_multiverse/aime24 --model multiverse/…``.

Every task takes the same arguments: ``mode``, ``budget``, ``data``, ``max_tokens``, ``epochs``,
``seed``, ``limit``.

==========  =================================  ==========================
mode        the question ends                  the engine
==========  =================================  ==========================
parallel    "step by step and in parallel …"   forks where the model does
sequential  "step by step …"                   forks where the model does
off         "step by step …"                   never forks
==========  =================================  ==========================
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal, get_args

from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from ..dialect import MULTIVERSE
from . import questions as sources
from .provider import sent
from .questions import Questions
from .scorers import answer, instructions, parallelism

Mode = Literal["parallel", "sequential", "off"]

#: How a question of mathematics asks for its answer, and one with choices.
BOXED = "Put your final answer within \\boxed{}."
CHOICE = "Put the letter of your choice within \\boxed{}."

#: Where questions are read from without ``data``: datasets on the Hub.
HUB = {
    "aime24": "HuggingFaceH4/aime_2024:train",
    "aime25": "math-ai/aime25:test",
    "math500": "HuggingFaceH4/MATH-500:test",
    "ifeval": "google/IFEval:train",
}


def ending(mode: Mode) -> str:
    """The sentence a question ends with, which the model was trained to read as its mode."""
    return MULTIVERSE.parallel_prompt if mode == "parallel" else MULTIVERSE.sequential_prompt


#: Told of every question that was asked: None of an answer, else why there is none and whether the
#: server refused it for good.
listeners: list[Callable[[tuple[str, bool] | None], None]] = []


@solver
def ask(mode: Mode, budget: int | None, seed: int, max_tokens: int | None) -> Solver:
    """Ask once. Epochs of a question have seeds of their own, the same in every mode."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        given: dict[str, Any] = {"seed": seed_of(seed, str(state.sample_id), state.epoch)}
        multiverse: Any = {}
        longest = max_tokens
        if mode == "off":
            multiverse = False
            longest = min(max_tokens or budget, budget) if budget else max_tokens
        elif budget:
            multiverse = {"max_critical_path": budget}
        if multiverse != {}:
            given["extra_body"] = {"custom_params": {"multiverse": multiverse}}
        if longest:
            given["max_tokens"] = longest
        requests: list[str] = []
        before = sent.set(requests)
        try:
            state = await generate(state, **given)
        except Exception as error:
            _tell((str(error) or type(error).__name__, False))
            raise
        finally:
            sent.reset(before)
            state.metadata["retries"] = max(len(requests) - 1, 0)
        _tell((state.output.error, True) if state.output.error else None)
        return state

    return solve


def _tell(why: tuple[str, bool] | None) -> None:
    for told in listeners:
        told(why)


def seed_of(seed: int, question: str, epoch: int) -> int:
    """The seed of one run, from 0 to 2³¹ − 1."""
    digest = hashlib.sha256(f"{seed}/{question}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _task(
    name: str,
    found: Questions,
    *,
    mode: Mode,
    budget: int | None,
    max_tokens: int | None,
    epochs: int,
    seed: int,
    limit: int | None,
    scorer: Scorer,
) -> Task:
    if mode not in get_args(Mode):
        raise ValueError(f"mode {mode!r}: one of {', '.join(get_args(Mode))}")
    asked = found.asked[:limit]
    samples = [
        Sample(
            id=one.id,
            input=f"{one.text} {ending(mode)}",
            target=one.reference,
            metadata={"question": one.id, "comparison": one.comparison, **one.extra},
        )
        for one in asked
    ]
    about = Questions(asked, found.source, found.private)
    return Task(
        name=name,
        dataset=MemoryDataset(samples, name=name),
        solver=ask(mode, budget, seed, max_tokens),
        scorer=[scorer, parallelism()],
        epochs=Epochs(epochs),
        config=GenerateConfig(max_tokens=max_tokens),
        metadata={
            "mode": mode,
            "budget": budget,
            "prompt_ending": ending(mode),
            "data": {
                "source": about.source,
                "sha256": about.sha256,
                "questions": len(asked),
                "private": about.private,
            },
        },
    )


def _named(
    name: str,
    about: str,
    read: Callable[[str | None], Questions],
    scorer: Callable[[], Scorer] = answer,
) -> Callable[..., Task]:
    """A task whose questions ``read`` gives of the argument ``data``."""

    def one(
        mode: Mode = "parallel",
        budget: int | None = None,
        data: str | None = None,
        max_tokens: int | None = 32768,
        epochs: int = 1,
        seed: int = 0,
        limit: int | None = None,
    ) -> Task:
        return _task(name, read(data), **_given(locals()), scorer=scorer())

    one.__name__ = one.__qualname__ = name
    one.__doc__ = about
    return task(one)


def _boxed(name: str) -> Callable[[str | None], Questions]:
    return lambda data: sources.from_rows(data or HUB[name], BOXED)


def _gpqa(data: str | None) -> Questions:
    if data is None:
        raise sources.QuestionsError(
            "gpqa_diamond needs data: the path of gpqa_diamond.csv, from "
            "https://github.com/idavidrein/gpqa"
        )
    return sources.gpqa(data, CHOICE)


def _own(data: str | None) -> Questions:
    if data is None:
        raise sources.QuestionsError(
            "own needs data: a JSONL file with question and answer, or a dataset on the Hub"
        )
    return sources.from_rows(data, BOXED)


aime24 = _named("aime24", "The 30 questions of AIME 2024.", _boxed("aime24"))
aime25 = _named("aime25", "The 30 questions of AIME 2025.", _boxed("aime25"))
math500 = _named("math500", "MATH-500.", _boxed("math500"))
gpqa_diamond = _named(
    "gpqa_diamond",
    "The 198 questions of GPQA-Diamond, from a copy of its file that ``data`` names.",
    _gpqa,
)
ifeval = _named(
    "ifeval",
    "IFEval, strict at the level of prompts; needs the package ``if-verifiable``.",
    lambda data: sources.ifeval(data or HUB["ifeval"]),
    instructions,
)
own = _named("own", "Questions of mathematics from a file or dataset that ``data`` names.", _own)


@task
def tiny(
    mode: Mode = "parallel",
    budget: int | None = None,
    data: str | None = None,
    max_tokens: int | None = 2400,
    epochs: int = 1,
    seed: int = 2026,
    limit: int | None = 200,
) -> Task:
    """Questions for the models that ship: ``data`` is ``machines`` (default), ``nested`` or
    ``sums``."""
    found = sources.made(data or "machines", limit or 200, seed)
    return _task("tiny", found, **_given(locals()), scorer=answer())


#: By name.
TASKS = {one.__name__: one for one in (aime24, aime25, math500, gpqa_diamond, ifeval, own, tiny)}


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    names = ("mode", "budget", "max_tokens", "epochs", "seed", "limit")
    return {name: arguments[name] for name in names}
