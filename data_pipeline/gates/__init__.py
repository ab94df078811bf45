"""The gates: what every LLM step must hold, checked without an LLM.

Each gate is a module; this one says which of them a stage runs. No text makes one raise.
"""

from __future__ import annotations

from dataclasses import replace

from sglang_multiverse.dialect import MULTIVERSE, Tag

from ..finding import Finding
from .meaning.answer import NOTES, check_answer, check_right, final_answer
from .meaning.borrowed import check_borrowed
from .meaning.content import check_content, kept_spans
from .meaning.coverage import compare_sentences
from .meaning.doubts import DOUBTFUL, UNCHECKED, check_ends
from .meaning.equivalence import EQUIVALENCE, Equivalence
from .meaning.independence import Judge, check_independence, judge_independence
from .meaning.placed import check_paths as check_placed
from .meaning.rewrite import check_rewrite
from .options import CURATION, MODEL_OUTPUT, GateOptions
from .text.benefit import flatten_costly_blocks
from .text.flat import without_blocks
from .text.grammar import check_grammar, keeps_tree
from .text.located import Located, locate
from .text.numbering import renumber
from .text.outlines import check_outline
from .text.shape import check_shape

__all__ = [
    "CURATION",
    "DOUBTFUL",
    "MODEL_OUTPUT",
    "NOTES",
    "UNCHECKED",
    "GateOptions",
    "Judge",
    "check_block",
    "check_borrowed",
    "check_document",
    "check_ends",
    "check_outline",
    "check_paths",
    "check_right",
    "final_answer",
    "flatten_costly_blocks",
    "judge_independence",
    "renumber",
    "without_blocks",
]


def check_document(
    text: str | Located,
    *,
    source: str | None = None,
    answer: str | None = None,
    options: GateOptions = CURATION,
    equivalence: Equivalence = EQUIVALENCE,
) -> list[Finding]:
    """Every gate that needs no LLM over a canonical text.

    Where the grammar leaves open what belongs to which path, only grammar and answer are checked:
    what the others would say of a guessed tree helps nobody.

    Args:
        text: the text, or what :func:`locate` found in it.
        source: the sequential chain the text was made of; None skips coverage and content.
        answer: the final answer to be kept, bare or in a text that gives it; None takes the
            source's, if it gives one.

    Returns:
        What is wrong, and notes: findings whose code is one of :data:`NOTES` reject nothing.

    Raises:
        EquivalenceError: answers are to be compared and math-verify is not installed.
    """
    located = locate(text) if isinstance(text, str) else text
    findings = check_grammar(located, options)
    whole = keeps_tree(findings)
    if whole:
        findings += check_shape(located, options) + check_independence(located, options)
    if source is not None and whole:
        if options.strict_coverage:
            spans = kept_spans(located, source)
            bare = source
            for tag in (MULTIVERSE[Tag.THINK], MULTIVERSE[Tag.END_THINK]):
                bare = bare.replace(tag, " " * len(tag))  # spans stay those of the source
            findings += compare_sentences(bare, located.text, spans)
        findings += check_content(located, source, options)
    findings += check_answer(
        located, answer=answer, source=source, options=options, equivalence=equivalence
    )
    return findings


def check_paths(text: str, source: str, options: GateOptions = CURATION) -> list[Finding]:
    """What the paths of a canonical text state otherwise than the sentences of ``source`` that they
    were made of. Nothing where the grammar leaves open what belongs to which path."""
    located = locate(text)
    whole = keeps_tree(check_grammar(located, options))
    return check_placed(located, source) if whole else []


def check_block(old: str, new: str, *, options: GateOptions = CURATION) -> list[Finding]:
    """After step 3: the rewritten block ``new`` against ``old``, each canonical text of one
    outermost block from its cue to ``</Parallel>``.

    Raises:
        ValueError: ``old`` is not one block.
    """
    head = f"{MULTIVERSE[Tag.THINK]}{MULTIVERSE.separator}"
    tail = f"{MULTIVERSE.separator}{MULTIVERSE[Tag.END_THINK]}"
    one, two = (locate(f"{head}{text.strip()}{tail}") for text in (old, new))
    findings = check_grammar(two, options) + check_shape(two, options)
    if not findings:
        findings = check_independence(two, options) + check_rewrite(one, two, options)
    shift = len(head) - (len(new) - len(new.lstrip()))
    return [
        finding
        if finding.span is None
        else replace(finding, span=(finding.span[0] - shift, finding.span[1] - shift))
        for finding in findings
    ]
