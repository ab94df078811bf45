"""The one stage of sampling: answers drawn, graded, held to the gates, and chosen from.

An answer is not asked for again, whatever is wrong with it: it is one draw, and what share of the
draws can be used is what one wants to know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from sglang_multiverse.dialect import MULTIVERSE
from sglang_multiverse.evaluation.grading import Grader
from sglang_multiverse.parallelism import Parallelism
from sglang_multiverse.text import parse_text

from ..finding import Finding
from ..gates import check_document, flatten_costly_blocks
from ..recipe import STAGE_VERSIONS, Recipe
from ..record import Record, Rejection
from ..stages.asking import Steps
from ..teacher.call import Call, Message, Reply, digest
from .options import Draws

STAGE = "sample"

_GRADER = Grader()


@dataclass(frozen=True)
class Drawn:
    """One answer.

    Attributes:
        code: why it cannot be used: ``wrong-answer``, ``no-answer``, ``answer-undecided``, a
            failure of the reply, or the code of the first gate; empty for one that can.
        parallelism: None where there is no text.
    """

    text: str
    code: str
    message: str = ""
    right: bool = False
    parallelism: Parallelism | None = None

    def row(self) -> dict[str, Any]:
        """What the store keeps of it: the text is in its call."""
        measured = self.parallelism
        return {
            "code": self.code,
            "right": self.right,
            "forked": bool(measured and measured.blocks),
            "tokens": measured.tokens if measured else 0,
            "critical_path": measured.critical_path_tokens if measured else 0,
        }


def sample(record: Record, recipe: Recipe) -> Steps:
    """Draw answers to the question of ``record`` and make it of those that are chosen."""
    draws = recipe.draws
    assert draws is not None
    drawn = []
    for number in range(1, draws.n + 1):
        reply = yield _call(record, recipe, draws, number)
        drawn.append(read(reply, record, recipe))
    chosen = choose(drawn, draws)
    rows = [one.row() | {"chosen": any(one is x for x in chosen)} for one in drawn]
    details = {"samples": rows, "texts": [one.text for one in chosen]}
    if not chosen:
        code, message = _why(drawn)
        return Rejection(STAGE, code, message, details={"samples": rows})
    return replace(record, text=chosen[0].text, details=details)


def _call(record: Record, recipe: Recipe, draws: Draws, number: int) -> Call:
    parallel = draws.mode == "parallel"
    ending = MULTIVERSE.parallel_prompt if parallel else MULTIVERSE.sequential_prompt
    system = (Message("system", draws.system),) if draws.system else ()
    seed = recipe.sampling.seed
    sampling = replace(
        recipe.sampling,
        seed=None if seed is None else seed + number,
        extra={**draws.extra, **recipe.sampling.extra},
    )
    return Call(
        item=record.id,
        stage=STAGE,
        stage_version=STAGE_VERSIONS[STAGE],
        prompt=STAGE,
        prompt_hash=digest([draws.system, ending]),
        model=recipe.model,
        sampling=sampling,
        messages=(*system, Message("user", f"{record.question} {ending}")),
        attempt=number,
        subject=str(number),
    )


def read(reply: Reply, record: Record, recipe: Recipe) -> Drawn:
    """What one reply is worth."""
    draws = recipe.draws
    assert draws is not None
    if reply.failure is not None:
        return Drawn("", reply.failure, "the reply cannot be used")
    text = reply.text.strip()
    measured = _measure(draws.tokenizer)(text)
    grade = _GRADER(text, record.answer or "", draws.comparison, "stop")
    right = grade.correct is True
    findings = [] if right else [_wrong(grade.answer, grade.correct, record.answer or "")]
    findings += check_document(text, answer=None, options=recipe.gates)
    if not findings and recipe.benefit is not None:
        document = parse_text(text)
        findings += flatten_costly_blocks(document, recipe.count_tokens, recipe.benefit)[1]
    if findings:
        return Drawn(text, findings[0].code, findings[0].message, right, measured)
    return Drawn(text, "", "", right, measured)


def _wrong(answer: str | None, correct: bool | None, reference: str) -> Finding:
    if answer is None:
        return Finding("no-answer", "no box and no `Answer:` names one", gate="answer")
    if correct is None:
        return Finding("answer-undecided", f"{answer!r}: not decided in time", gate="answer")
    return Finding(
        "wrong-answer", f"the answer is {answer!r}, right is {reference!r}", gate="answer"
    )


def choose(drawn: Sequence[Drawn], draws: Draws) -> list[Drawn]:
    """The answers that become rows, none twice."""
    first: dict[str, Drawn] = {}
    for one in drawn:
        if not one.code:
            first.setdefault(one.text, one)
    usable = list(first.values())
    if draws.choose == "all" or not usable:
        return usable

    def length(one: Drawn) -> int:
        assert one.parallelism is not None
        return one.parallelism.critical_path_tokens

    def degree(one: Drawn) -> float:
        assert one.parallelism is not None
        return one.parallelism.degree

    if draws.choose == "shortest":
        return [min(usable, key=lambda one: (length(one), -degree(one)))]
    return [min(usable, key=lambda one: (-degree(one), length(one)))]


def _why(drawn: Sequence[Drawn]) -> tuple[str, str]:
    """The code of most of the right answers where there are some, else of most of all."""
    some = [one for one in drawn if one.right] or list(drawn)
    counts = Counter(one.code for one in some)
    code = counts.most_common(1)[0][0]
    message = next(one.message for one in some if one.code == code)
    right = sum(one.right for one in drawn)
    return code, f"{right} of {len(drawn)} answers right, none passed: {message}"


@lru_cache(maxsize=4)
def _measure(tokenizer: Path | None) -> Any:
    from ..corpus.export import measure_by

    return measure_by(tokenizer)[0]
