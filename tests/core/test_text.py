"""The text form: bytes in, bytes out, through a real tree."""

from __future__ import annotations

import dataclasses
import doctest
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sglang_multiverse.text
from sglang_multiverse.dialect import MULTIVERSE, Dialect, Tag
from sglang_multiverse.lexer import encode, lex
from sglang_multiverse.structure import parse
from sglang_multiverse.text import (
    MAX_DEPTH,
    Block,
    Conclusion,
    Document,
    Outline,
    Path,
    parse_text,
    serialise,
)
from tests.conftest import Rows

from .tokenizers_made import Bound, byte_level


def nodes(document: Document) -> Iterator[Document | Block | Outline | Path | Conclusion]:
    """Every node of the tree, the document included."""
    yield document
    for block, _ in document.walk():
        yield block
        yield from block.outlines
        yield from block.paths
        if block.conclusion is not None:
            yield block.conclusion


def strings(document: Document) -> Iterator[str]:
    """Every text part of the tree."""
    yield from (p for p in (*document.head, *(document.thought or ()), *document.answer) if p)
    for block, _ in document.walk():
        yield from (outline.text for outline in block.outlines)
        for path in block.paths:
            yield from path.content
        if block.conclusion is not None:
            yield from block.conclusion.content


# --- real traces -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wellformed", "plain", "malformed"])
def test_every_real_trace_comes_back_byte_for_byte(
    name: str, traces: Callable[[str], Rows]
) -> None:
    for row in traces(name):
        assert serialise(parse_text(row["output"])) == row["output"], row["id"]


def test_the_tree_of_a_real_trace_holds_its_structure(traces: Callable[[str], Rows]) -> None:
    labels = {label["id"]: label for label in traces("labels")}
    for row in traces("wellformed"):
        document = parse_text(row["output"])
        label = labels[row["id"]]
        walked = list(document.walk())
        assert len(walked) == label["n_blocks"]
        assert max(depth for _, depth in walked) == label["max_depth"]
        assert document.canonical == document.closed == label["category"].startswith("P1")
        # No tag is left in a text: what is structure is a node.
        for part in strings(document):
            assert not isinstance(part, str) or not any(lex(part).ids < len(Tag)), row["id"]
        for block, _ in walked:
            assert [path.label for path in block.paths] == [o.label for o in block.outlines]
            assert None not in [path.label for path in block.paths]


def test_real_spacing_is_canonical_but_for_the_cue(traces: Callable[[str], Rows]) -> None:
    for row in traces("wellformed"):
        for node in nodes(parse_text(row["output"])):
            assert set(node.gaps) <= {"before_cue"}


# --- any text --------------------------------------------------------------------------------

GOAL = "<Parallel>\n<Goal>\n"

fragments = st.lists(
    st.sampled_from(
        [
            *MULTIVERSE.tags,
            *(f"{tag}\n" for tag in MULTIVERSE.tags),
            *("\n", "\n\n", " ", "  \n", "\r\n", "1:", "2.1: ", "word", "é", MULTIVERSE.cue),
            f"{GOAL}<Outline>\n1: a\n</Outline>\n<Outline>\n2: b\n</Outline>\n</Goal>\n",
            f"{GOAL}<Outline>\n</Outline>\n\n<Outline>\nx\n</Outline> \n</Goal>\n<Path>\n",
            "\n</Path>\n<Path>\n2: b",
            "\n</Path>\n<Conclusion>\nso\n</Conclusion>\n</Parallel>\n",
            "</Conclusion>\n</Parallel>",
        ]
    ),
    max_size=40,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.one_of(fragments, st.text()))
def test_any_text_comes_back_byte_for_byte(text: str) -> None:
    document = parse_text(text)
    assert serialise(document) == text
    assert "".join(lex(text).pieces) == text
    assert parse_text(serialise(document)) == document


def test_nesting_of_any_depth_comes_back() -> None:
    text = (
        "<Parallel>\n<Goal>\n<Outline>\n1: x\n</Outline>\n<Outline>\n2: x\n</Outline>\n</Goal>\n"
        "<Path>\n"
    ) * 2000
    document = parse_text(text)
    assert serialise(document) == text
    assert max(depth for _, depth in document.walk()) == MAX_DEPTH


# --- building --------------------------------------------------------------------------------

CANONICAL = """<Think>
Two sums.
Let's think in parallel.
<Parallel>
<Goal>
<Outline>
1: Add.
</Outline>
<Outline>
2: Multiply.
</Outline>
</Goal>
<Path>
1: 12 + 30 = 42.
</Path>
<Path>
2: First halve.
Let's think in parallel.
<Parallel>
<Goal>
<Outline>
2.1: Left.
</Outline>
<Outline>
2.2: Right.
</Outline>
</Goal>
<Path>
2.1: 4.
</Path>
<Path>
2.2: 5.
</Path>
<Conclusion>
9
</Conclusion>
</Parallel>
</Path>
<Conclusion>
42 is more.
</Conclusion>
</Parallel>
So 42.
</Think>

Answer: 42"""


def built() -> Document:
    inner = Block(
        [Outline("2.1", " Left."), Outline("2.2", " Right.")],
        [Path("2.1", [" 4."]), Path("2.2", [" 5."])],
        Conclusion(["9"]),
    )
    block = Block(
        [Outline("1", " Add."), Outline("2", " Multiply.")],
        [Path("1", [" 12 + 30 = 42."]), Path("2", [" First halve.", inner])],
        Conclusion(["42 is more."]),
    )
    return Document(thought=["Two sums.", block, "So 42."], answer=["Answer: 42"])


def test_a_tree_that_says_nothing_of_spacing_is_written_canonically() -> None:
    assert serialise(built()) == CANONICAL
    assert parse_text(CANONICAL) == built()
    assert parse_text(CANONICAL).canonical


def test_writing_changes_no_node() -> None:
    def explicit() -> Document:
        document = built()
        block = document.blocks[0]
        block.cue, block.gaps = MULTIVERSE.cue, {"after_parallel": "\n"}
        return document

    document = explicit()
    assert serialise(document) == CANONICAL
    assert document == explicit()


words = st.text("ab .,\n", max_size=6)


def contents(depth: int) -> st.SearchStrategy[list[str | Block]]:
    if not depth:
        return st.lists(words, max_size=1)
    return st.lists(st.one_of(words, blocks(depth)), max_size=3)


@st.composite
def blocks(draw: st.DrawFn, depth: int) -> Block:
    n = draw(st.integers(2, 3))
    return Block(
        [Outline(str(i + 1), draw(words)) for i in range(n)],
        [Path(str(i + 1), draw(contents(depth - 1))) for i in range(n)],
        Conclusion(draw(contents(0))),
        cue=draw(st.sampled_from([None, "", "Both at once.\n"])),
    )


@settings(max_examples=150, deadline=None)
@given(contents(3), contents(1), st.booleans())
def test_whatever_is_built_parses_without_issue(
    thought: list[str | Block], answer: list[str | Block], whole: bool
) -> None:
    document = Document(thought=thought if whole else None, answer=answer)
    text = serialise(document)
    parsed = parse_text(text)
    assert parsed.canonical
    assert serialise(parsed) == text
    shape = [(len(b.outlines), len(b.paths), depth) for b, depth in document.walk()]
    assert [(len(b.outlines), len(b.paths), depth) for b, depth in parsed.walk()] == shape


def test_gaps_are_kept_by_name_and_can_be_dropped() -> None:
    text = CANONICAL.replace("</Path>\n<Path>\n2: First", "</Path>\n\n<Path>\n2: First")
    document = parse_text(text)
    first = document.blocks[0].paths[0]
    assert first.gaps == {"after_close": "\n\n"}
    assert not document.canonical
    first.gaps.clear()
    assert serialise(document) == CANONICAL


def test_a_blank_line_before_a_block_is_text() -> None:
    document = parse_text(CANONICAL.replace("Two sums.\n", "Two sums.\n\n"))
    assert document.thought is not None
    assert document.thought[0] == "Two sums.\n\n"
    assert not any(node.gaps for node in nodes(document))


@pytest.mark.parametrize(
    ("text", "closed", "head", "thought", "answer"),
    [
        ("<Think>\nSo", False, [], ["So"], []),
        ("<Think>\nSo\n</Think>\n\nIt is", True, [], ["So"], ["It is"]),
        ("<Think>\nSo  \n</Think>\nIt", True, [], ["So  "], ["\nIt"]),
        ("Just an answer.\n", True, [], None, ["Just an answer.\n"]),
        ("Asked.\n<Think>\nSo", False, ["Asked."], ["So"], []),
        ("", True, [], None, []),
    ],
)
def test_thought_and_answer(
    text: str, closed: bool, head: list[str], thought: list[str] | None, answer: list[str]
) -> None:
    document = parse_text(text)
    assert (document.closed, document.head, document.thought) == (closed, head, thought)
    assert document.answer == answer
    assert serialise(document) == text


def test_an_unclosed_path_is_a_node_too() -> None:
    cut = CANONICAL[: CANONICAL.index("30 = 42")]
    document = parse_text(cut)
    (block,) = document.blocks
    assert (block.closed, block.conclusion) == (False, None)
    assert block.paths == [Path("1", [" 12 + "], closed=False)]
    assert serialise(document) == cut


# --- the lexical rule ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("<Path>", ["<Path>"]),
        ("a\n<Path>\nb", ["<Path>"]),
        ("a\n  <Path>  \nb", ["<Path>"]),
        ("a\n\t</Path>\r\nb", ["</Path>"]),
        ("<Path>\n<Path>\n</Path>", ["<Path>", "<Path>", "</Path>"]),
        ("the <Path> form", []),
        ("a <Path>\n", []),
        ("<Path> b\n", []),
        ("<Path><Path>\n", []),
        ("<Path 1>\n", []),
        ("<path>\n", []),
        ("a\u2028<Path>\u2028b", []),
    ],
)
def test_a_tag_is_structure_only_where_a_line_consists_of_it(text: str, tags: list[str]) -> None:
    lexed = lex(text)
    assert [lexed.pieces[i] for i in range(len(lexed.ids)) if lexed.ids[i] < len(Tag)] == tags
    tokenizer = Bound(byte_level())
    dialect = Dialect.from_tokenizer(tokenizer)
    ids = encode(text, tokenizer, dialect)
    assert [MULTIVERSE[dialect.tag_of[i]] for i in ids if i in dialect.tag_of] == tags
    assert tokenizer.inner.decode(ids, skip_special_tokens=False) == text


@settings(max_examples=100, deadline=None)
@given(fragments)
def test_tokens_have_the_structure_of_the_text(text: str) -> None:
    tokenizer = Bound(byte_level())
    dialect = Dialect.from_tokenizer(tokenizer)
    ids = encode(text, tokenizer, dialect)
    assert tokenizer.inner.decode(ids, skip_special_tokens=False) == text
    lexed = lex(text)
    by_text, by_tokens = parse(lexed.ids, lexed.dialect), parse(ids, dialect)
    assert shape(by_text.blocks) == shape(by_tokens.blocks)


def shape(blocks: list) -> list:
    return [
        (len(block.outlines), block.closed, [shape(path.blocks) for path in block.paths])
        for block in blocks
    ]


def test_encoding_a_canonical_text_is_what_the_tokenizer_does() -> None:
    tokenizer = Bound(byte_level())
    dialect = Dialect.from_tokenizer(tokenizer)
    assert encode(CANONICAL, tokenizer, dialect) == tokenizer.encode(
        CANONICAL, add_special_tokens=False
    )


def test_the_example_in_the_documentation_runs() -> None:
    result = doctest.testmod(sglang_multiverse.text)
    assert result.attempted
    assert not result.failed


def test_nodes_compare_by_content() -> None:
    document = built()
    assert dataclasses.replace(document, answer=["Answer: 43"]) != built()
