"""The prompting test: does a model parallelise when it is only asked to?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sglang_multiverse import structure
from sglang_multiverse.parallelism import Parallelism, parallelism
from sglang_multiverse.text import parse_text

from ..teacher.call import Call, Failure, Message, Reply, Sampling
from ..teacher.prompt import Prompt, read
from ..teacher.task import Task
from .asking import FOLDER, Steps
from .intervals import bootstrap_mean, wilson
from .numbered import read_numbered
from .rows import Row

VERSION = "1"
PROMPT = "analysis-prompting"

#: The task line that ends the request; a model under test should read nothing strange in it.
STAGE = "solve"

#: What is counted of a reply, in the order of the report.
SHARES = ("with_block", "announced", "forked", "well_formed", "plan_only")


@dataclass(frozen=True)
class Answer:
    """One reply. ``failure``: why it cannot be looked at."""

    sample: int
    text: str
    failure: Failure | None


@dataclass(frozen=True)
class Verdict:
    """What one reply does.

    Attributes:
        form: ``numbered`` tags as asked for, the ``dialect``'s own (a trained model), or ``none``.
        with_block: a block is begun.
        announced: two goals at least are set in one block.
        forked: two paths at least of one block are written, and say more than their goals.
        well_formed: there are blocks, and all of them are as asked for.
        plan_only: paths are announced, and no block forks: the plan is all there is, or the work
            stands outside the tags, one part after another.
    """

    form: str
    with_block: bool
    announced: bool
    forked: bool
    well_formed: bool
    plan_only: bool
    goals: int
    paths: int
    measures: Parallelism
    issues: tuple[str, ...] = ()


def directive() -> Prompt:
    """The prompt of the test."""
    return read(FOLDER / f"{PROMPT}.md")


def answers(
    row: Row, model: str, sampling: Sampling, samples: Iterable[int], prompt: Prompt
) -> Steps[list[Answer]]:
    """Ask once for every number in ``samples``; the row's text is the question. Nothing is asked
    for again because of what it says, for what it says is what is measured."""
    asked = prompt.fill(question=row.text.strip())
    found: list[Answer] = []
    for sample in samples:
        message = Message("user", f"{asked}\n\n{Task(STAGE, attempt=sample)}")
        reply: Reply = yield Call(
            item=row.id,
            stage=PROMPT,
            stage_version=VERSION,
            prompt=PROMPT,
            prompt_hash=prompt.hash,
            model=model,
            sampling=sampling,
            messages=(message,),
            attempt=sample,
        )
        found.append(Answer(sample, reply.text, reply.failure))
    return found


def judge(text: str, parse: Callable[[str], structure.Trace]) -> Verdict:
    """What ``text`` does. ``parse`` counts the tokens, see :mod:`.parallelism`."""
    trace = parse(text)
    if trace.blocks:
        return _of_dialect(text, trace)
    written = read_numbered(text)
    blocks = list(written.walk())
    forked = any(block.forks for block in blocks)
    announced = any(len(block.goals) > 1 for block in blocks)
    return Verdict(
        form="numbered" if blocks else "none",
        with_block=bool(blocks),
        announced=announced,
        forked=forked,
        well_formed=bool(blocks) and all(block.well_formed for block in blocks),
        plan_only=announced and not forked,
        goals=sum(len(block.goals) for block in blocks),
        paths=sum(len(block.written) for block in blocks),
        measures=parallelism(parse(written.canonical() if forked else text)),
        issues=tuple(sorted({issue for block in blocks for issue in block.issues})),
    )


def _of_dialect(text: str, trace: structure.Trace) -> Verdict:
    blocks = [block for block, _ in parse_text(text).walk()]
    written = [
        sum(any(not isinstance(one, str) or one.strip() for one in path.content) for path in paths)
        for paths in (block.paths for block in blocks)
    ]
    forked = any(count > 1 for count in written)
    announced = any(len(block.outlines) > 1 for block in blocks)
    whole = all(
        block.closed and len(block.paths) == len(block.outlines) == count
        for block, count in zip(blocks, written, strict=True)
    )
    return Verdict(
        form="dialect",
        with_block=True,
        announced=announced,
        forked=forked,
        well_formed=whole,
        plan_only=announced and not forked,
        goals=sum(len(block.outlines) for block in blocks),
        paths=sum(written),
        measures=parallelism(trace),
        issues=tuple(sorted({issue.code for issue in trace.issues})),
    )


def row(item: str, answer: Answer, verdict: Verdict | None) -> dict[str, Any]:
    """One reply with its verdict, for those who want to read them."""
    said: dict[str, Any] = {"id": item, "sample": answer.sample, "failure": answer.failure}
    if verdict is not None:
        said |= {"form": verdict.form} | {name: getattr(verdict, name) for name in SHARES}
        said |= {
            "goals": verdict.goals,
            "paths": verdict.paths,
            "parallelism": round(verdict.measures.degree, 4),
            "net_parallelism": round(verdict.measures.net, 4),
            "issues": list(verdict.issues),
        }
    return said | {"output": answer.text}


def summarise(
    verdicts: Sequence[Verdict],
    failures: Sequence[Failure],
    *,
    questions: int,
    tokens: str,
    endpoint_failed: int = 0,
    bad_rows: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Shares with Wilson intervals, and parallelism, as one JSON object. Failed replies (cut,
    refused, empty) are counted by code and are in no share."""
    found: dict[str, Any] = {
        "questions": questions,
        "replies": len(verdicts),
        "failed_replies": dict(Counter(failures)),
        "endpoint_failed": endpoint_failed,
        "bad_rows": bad_rows,
        "tokens_by": tokens,
        "forms": dict(Counter(one.form for one in verdicts)),
        "shares": {
            name: _share(sum(getattr(one, name) for one in verdicts), len(verdicts))
            for name in SHARES
        },
        "paths_announced": sum(one.goals for one in verdicts),
        "paths_written": sum(one.paths for one in verdicts),
        "issues": dict(Counter(issue for one in verdicts for issue in one.issues)),
    }
    if verdicts:
        for name in ("degree", "net"):
            values = [getattr(one.measures, name) for one in verdicts]
            mean = fmean(values)
            found[name] = {
                "mean": mean,
                "interval": bootstrap_mean(values, seed),
                "max": max(values),
            }
    return found


def _share(hits: int, of: int) -> dict[str, Any]:
    share = hits / of if of else None
    return {"hits": hits, "of": of, "share": share, "interval": wilson(hits, of)}
