"""Stage 3: every outermost block rewritten so that it reads as if thought in parallel.

The LLM sees the block, all that was thought before it, which its paths may use, and a few sentences
of what follows. Its answer is read by the shared text parser, so mathematics may hold ``<`` and
``&``; its numbers do not matter.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

from sglang_multiverse.text import (
    Block,
    Conclusion,
    Content,
    Document,
    Outline,
    Path,
    parse_text,
    serialise,
)

from ..finding import Finding
from ..gates import (
    DOUBTFUL,
    UNCHECKED,
    check_block,
    check_borrowed,
    check_document,
    check_ends,
    renumber,
)
from ..gates.text.located import locate
from ..recipe import STAGE_VERSIONS, Recipe
from ..record import Record, Rejection
from ..source.sentences import split_sentences
from ..teacher.call import Call, Message, Reply
from .asking import Question, Reading, Steps, ask
from .flattening import block_text, flatten, said
from .judging import settle
from .payload import payload

#: Sentences of the text after a block that the LLM is shown.
AFTER = 3
#: Doubts about what paths say that a judge is asked to settle; a block with more is written again.
MOST_DOUBTS = 12

#: A block, and what words leave doubtful in it.
_Drafted = tuple[Block, tuple[Finding, ...]]


def rewrite(record: Record, recipe: Recipe) -> Steps:
    """Rewrite the outermost blocks of ``record.text`` one by one."""
    document = parse_text(record.text)
    thought = document.thought or []
    notes = list(record.notes)
    blocks = [(index, part) for index, part in enumerate(thought) if isinstance(part, Block)]
    failed: dict[int, Rejection] = {}
    for number, (index, _) in enumerate(blocks):
        rewritten = yield from _rewritten(record, recipe, document, index, f"B{number + 1}")
        if isinstance(rewritten, Block):
            thought[index] = rewritten
        elif recipe.on_failed_rewrite == "reject":
            return rewritten
        elif recipe.on_failed_rewrite == "keep":
            notes.append(
                Finding(
                    "kept-as-drafted",
                    f"block {number + 1} is not rewritten ({rewritten.code}: {rewritten.message})",
                )
            )
        else:
            failed[number] = rewritten
    text = serialise(renumber(document))
    record = replace(record, text=text, proposed=len(blocks), notes=tuple(notes))
    return flatten(record, recipe, failed)


def _rewritten(
    record: Record, recipe: Recipe, document: Document, index: int, name: str
) -> Generator[Call, Reply, Block | Rejection]:
    """A better block for ``document.thought[index]``, which stays as it is."""
    thought = document.thought or []
    block = thought[index]
    assert isinstance(block, Block)
    old = block_text(block)

    def read(reply: str) -> Reading[_Drafted]:
        reading = read_block(reply, old, recipe)
        doubts = list(reading.findings) if _only_doubts(reading.findings, recipe) else []
        if reading.value is None or len(doubts) < len(reading.findings):
            return Reading(None, reading.findings, reading.text, reading.source)
        whole = [*thought[:index], reading.value, *thought[index + 1 :]]
        text = serialise(replace(document, thought=whole))
        number = sum(isinstance(part, Block) for part in thought[:index])
        return _in_place(reading.value, number, text, record, recipe, doubts)

    after = thought[index + 1] if index + 1 < len(thought) else ""
    around = (said(thought[:index]), after if isinstance(after, str) else "")
    question = _question(record, recipe, old, name, around)
    drafted = yield from ask(record, recipe, question, read)
    if isinstance(drafted, Rejection):
        return drafted
    new, doubts = drafted
    if doubts:
        why = yield from settle(record, recipe, old, block_text(new), doubts, name)
        if why is not None:
            return why
    return new


def _only_doubts(findings: Sequence[Finding], recipe: Recipe) -> bool:
    """Whether a judge may settle all that was found; more than a few are too many."""
    few = len(findings) <= MOST_DOUBTS
    return recipe.judge != "never" and few and all(one.code in DOUBTFUL for one in findings)


def _question(
    record: Record, recipe: Recipe, block: str, name: str, around: tuple[str, str]
) -> Question:
    before, after = around
    task = recipe.prompts["rewrite"].fill(
        question=record.question,
        before=before.strip() or "-",
        after=_first_sentences(after) or "-",
        block=block.strip(),
    )
    version = STAGE_VERSIONS["rewrite"]
    return Question("rewrite", version, "rewrite", (Message("user", task),), name, system="writer")


def _in_place(
    block: Block, number: int, text: str, record: Record, recipe: Recipe, doubts: list[Finding]
) -> Reading[_Drafted]:
    """``block`` with what is wrong with the whole document ``text``, of which it is outermost block
    ``number``, and what is doubtful. Paths of blocks yet to be rewritten need not be independent.
    """
    located = locate(text)
    findings = check_document(
        located,
        source=record.reference,
        answer=record.attempt or None,
        options=replace(recipe.gates, independence=False),
    )
    here = located.blocks[number] if not findings else None
    if here is not None and recipe.gates.independence:
        findings = check_borrowed(located, record.question, [here])
    if here is not None and recipe.gates.faithful and recipe.judge != "never":
        ends = check_ends(located, here, record.question, every=True)
        doubtful = doubts or any(one.code != UNCHECKED for one in ends)
        # Where the judge is asked of one thing, it is asked of every conclusion.
        if doubtful or recipe.judge == "every":
            doubts = [*doubts, *ends]
    return Reading((block, tuple(doubts)), findings, text, record.reference)


def read_block(reply: str, old: str, recipe: Recipe) -> Reading[Block]:
    """The block of a reply, in canonical spacing and with our numbers, and how it departs from
    the block ``old``."""
    text = payload(reply)
    document = parse_text(text)
    blocks = document.blocks
    if len(blocks) != 1:
        findings = check_block(old, text, options=recipe.gates) or [
            Finding("block-count", f"{len(blocks)} blocks instead of one", gate="grammar")
        ]
        return Reading(None, findings, text)
    strings = [
        part
        for part in [*document.head, *(document.thought or ()), *document.answer]
        if isinstance(part, str) and part.strip()
    ]
    if strings:
        at = text.find(strings[0])
        return Reading(
            None,
            [
                Finding(
                    "text-outside-block",
                    "give the block alone, from <Parallel> to </Parallel>",
                    (max(at, 0), max(at, 0) + len(strings[0])),
                )
            ],
            text,
        )
    (block,) = renumber(Document(answer=[tidy(blocks[0])])).blocks
    new = block_text(block)
    return Reading(block, check_block(old, new, options=recipe.gates), new, old)


def tidy(block: Block) -> Block:
    """``block`` without the spacing of its own: what is left is structure and words."""
    conclusion = block.conclusion
    if conclusion is not None:
        conclusion = Conclusion(_tidy_content(conclusion.content), conclusion.closed)
    return Block(
        [Outline(outline.label, f" {outline.text.strip()}") for outline in block.outlines],
        [
            Path(path.label, _tidy_content(path.content, lead=" "), path.closed)
            for path in block.paths
        ],
        conclusion,
        closed=block.closed,
    )


def _tidy_content(content: Content, lead: str = "") -> Content:
    parts = [part.strip() if isinstance(part, str) else tidy(part) for part in content]
    parts = [part for part in parts if part]
    if parts and isinstance(parts[0], str):
        parts[0] = lead + parts[0]
    return parts


def _first_sentences(text: str) -> str:
    return "".join(text[start:end] for start, end in split_sentences(text)[:AFTER]).strip()
