"""Stage 3: every outermost block rewritten so that it reads as if thought in parallel.

The LLM sees the block, all that was thought before it, which its paths may use, and a few sentences
of what follows. Its answer is read by the shared text parser, so mathematics may hold ``<`` and
``&``; its numbers do not matter.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
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
    check_block,
    check_borrowed,
    check_document,
    renumber,
    without_blocks,
)
from ..gates.text.located import locate
from ..recipe import STAGE_VERSIONS, Recipe
from ..record import Passage, Record, Rejection
from ..source.sentences import split_sentences
from ..teacher.call import Call, Message, Reply
from .asking import Question, Reading, Steps, ask
from .payload import payload

#: Sentences of the text after a block that the LLM is shown.
AFTER = 3


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


def flatten(record: Record, recipe: Recipe, failed: Mapping[int, Rejection]) -> Record | Rejection:
    """``record`` with the source's own sentences in the place of outermost blocks, each with a
    note.

    Args:
        failed: what is wrong with a block, by its number from 0.

    Returns:
        What is wrong with the last one, where none is left and the gates require one.
    """
    if not failed:
        return record
    places = [place for place, one in enumerate(record.passages) if isinstance(one, Passage)]
    passages = list(record.passages)
    texts = {}
    for number in failed:
        passage = passages[places[number]]
        assert isinstance(passage, Passage)
        passages[places[number]] = texts[number] = passage.plain
    document = without_blocks(parse_text(record.text), texts)
    if recipe.gates.require_block and not document.blocks:
        return failed[max(failed)]
    notes = [
        Finding(
            f"flattened: {why.code}",
            f"block {number + 1}: {why.message}",
            gate=why.findings[0].gate if why.findings else "grammar",
        )
        for number, why in failed.items()
    ]
    return replace(
        record,
        text=serialise(document),
        passages=tuple(passages),
        notes=(*record.notes, *notes),
    )


def _rewritten(
    record: Record, recipe: Recipe, document: Document, index: int, name: str
) -> Generator[Call, Reply, Block | Rejection]:
    """A better block for ``document.thought[index]``, which stays as it is."""
    thought = document.thought or []
    block = thought[index]
    assert isinstance(block, Block)
    old = block_text(block)

    def read(reply: str) -> Reading[Block]:
        reading = read_block(reply, old, recipe)
        if reading.value is None or reading.findings:
            return reading
        whole = [*thought[:index], reading.value, *thought[index + 1 :]]
        text = serialise(replace(document, thought=whole))
        number = sum(isinstance(part, Block) for part in thought[:index])
        return _in_place(reading.value, number, text, record, recipe)

    after = thought[index + 1] if index + 1 < len(thought) else ""
    around = (said(thought[:index]), after if isinstance(after, str) else "")
    question = _question(record, recipe, old, name, around)
    return (yield from ask(record, recipe, question, read))


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
    block: Block, number: int, text: str, record: Record, recipe: Recipe
) -> Reading[Block]:
    """``block`` with what is wrong with the whole document ``text``, of which it is outermost block
    ``number``. Paths of blocks yet to be rewritten need not be independent."""
    located = locate(text)
    findings = check_document(
        located,
        source=record.reference,
        answer=record.attempt or None,
        options=replace(recipe.gates, independence=False),
    )
    if not findings and recipe.gates.independence:
        findings = check_borrowed(located, record.question, [located.blocks[number]])
    return Reading(block, findings, text, record.reference)


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


def block_text(block: Block) -> str:
    """Canonical text of one outermost block, from its cue line on."""
    return serialise(Document(answer=[block]))


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


def said(content: Content) -> str:
    """Canonical text of a thought up to some part of it."""
    return "".join(part if isinstance(part, str) else block_text(part) for part in content)


def _first_sentences(text: str) -> str:
    return "".join(text[start:end] for start, end in split_sentences(text)[:AFTER]).strip()
