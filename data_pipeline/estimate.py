"""What a run will ask for and cost, before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .recipe import Judging, Recipe
from .record import Record
from .source.sentences import split_sentences
from .stages.chain import opening
from .teacher.budget import Prices, most_input_tokens
from .teacher.call import Message, Usage

#: Characters a token, of English with mathematics.
_CHARACTERS = 3.5

#: Outermost blocks a chain, and tokens of one: means of 1,114 blocks of real outputs of the
#: published model.
BLOCKS, BLOCK_TOKENS = 4.6, 430

#: Calls for the judge, a block: as if every one were doubtful.
_JUDGED: dict[Judging, int] = {"never": 0, "doubtful": 1, "every": 2}

#: Tokens of a listed step, and sentences to a step.
_STEP_TOKENS, _STEP_SENTENCES = 18, 6


@dataclass(frozen=True)
class Estimate:
    """Calls, tokens and cost of the items that are not settled yet, without repairs, and the
    most they can come to: every attempt used, every reply as long as it may be."""

    items: int
    calls: float
    usage: Usage
    cost: float
    worst_calls: float
    worst_tokens: int
    worst_cost: float


def estimate(records: Sequence[Record], recipe: Recipe, prices: Prices) -> Estimate:
    """Estimate a run over ``records`` by their lengths.

    Blocks per chain are not known beforehand: the mean of the published model's outputs stands
    for them, of a short chain as many as it has room for. A teacher that reasons before it answers
    is charged for that too, which no length tells; the figures hold for one that does not.
    """
    if recipe.draws is not None:
        return _of_draws(records, recipe, recipe.draws.n, prices)
    asked = 1 + _JUDGED[recipe.judge]
    system = Message("system", recipe.prompts["curator"].text)
    given = written = longest = 0
    calls = 0.0
    for record in records:
        opened = opening(record, recipe, "")
        one = _usage(record, recipe, opened)
        given, written = given + one.input, written + one.output
        calls += 4 + _blocks(record)[0] * asked
        longest += most_input_tokens([system, *opened]) + recipe.sampling.max_tokens
    usage = Usage(given, written)
    most = len(records) * (4 + BLOCKS * asked)
    worst_calls = most * recipe.attempts
    worst_input = int(longest * worst_calls / max(len(records), 1))
    rooms = [recipe.sampling.max_tokens << min(cut, recipe.room) for cut in range(recipe.attempts)]
    worst = Usage(worst_input, int(most * sum(rooms)))
    return Estimate(
        len(records),
        calls,
        usage,
        prices.of(usage),
        worst_calls,
        worst.input + worst.output,
        prices.of(worst),
    )


def _of_draws(records: Sequence[Record], recipe: Recipe, n: int, prices: Prices) -> Estimate:
    """Every answer as long as it may be, for nothing tells how long it will be."""
    asked = int(sum(len(record.question) + 60 for record in records) / _CHARACTERS) * n
    calls = len(records) * n
    usage = Usage(asked, calls * recipe.sampling.max_tokens)
    cost = prices.of(usage)
    return Estimate(len(records), calls, usage, cost, calls, usage.input + usage.output, cost)


def _blocks(record: Record) -> tuple[float, float]:
    """Outermost blocks that a chain of this length has room for, and tokens of one."""
    tokens = len(record.source) / _CHARACTERS
    return min(BLOCKS, max(1.0, tokens / BLOCK_TOKENS)), min(BLOCK_TOKENS, 1.5 * tokens)


def _usage(record: Record, recipe: Recipe, opened: Sequence[Message]) -> Usage:
    sentences = len(split_sentences(record.source))
    trunk = len(record.source) / _CHARACTERS / 2  # before a block, on average
    steps = _STEP_TOKENS * max(sentences // _STEP_SENTENCES, 3)
    prompts = {
        name: int(len(one.text) / _CHARACTERS) for name, one in recipe.prompts.by_name.items()
    }
    chain = prompts["curator"] + _tokens(opened)
    many, size = _blocks(record)
    blocks = int(many * size)
    judged = _JUDGED[recipe.judge]
    review = prompts["reviewer"] + prompts["doubts"] + 2 * size + 150
    given = (
        judged * int(many * review),
        chain + prompts["outline-steps"],
        chain + steps + prompts["outline-groups"],
        chain + steps + prompts["fill"],
        blocks + prompts["writer"] + prompts["frame"],
        blocks + int(many * (prompts["writer"] + prompts["rewrite"] + trunk + 100)),
    )
    replies = (steps, steps + 60, steps // 2, int(many * 130), blocks, int(judged * many * 40))
    return Usage(sum(given), sum(replies))


def _tokens(messages: Sequence[Message]) -> int:
    return int(sum(len(message.content) for message in messages) / _CHARACTERS)
