"""What inspect-ai finds of this package, by its entry point: the model, tasks and scorers."""

from inspect_ai.model import ModelAPI, modelapi

from .scorers import answer, instructions, parallelism
from .tasks import aime24, aime25, gpqa_diamond, ifeval, math500, own, tiny

__all__ = [
    "aime24",
    "aime25",
    "answer",
    "gpqa_diamond",
    "ifeval",
    "instructions",
    "math500",
    "multiverse",
    "own",
    "parallelism",
    "tiny",
]


@modelapi(name="multiverse")
def multiverse() -> type[ModelAPI]:
    from .provider import Multiverse

    return Multiverse
