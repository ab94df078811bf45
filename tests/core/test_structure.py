"""The tree of a text: real structure found, strict codes and offsets, prefixes, limits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_multiverse.dialect import Tag
from sglang_multiverse.lexer import lex
from sglang_multiverse.structure import (
    Block,
    Limits,
    Path,
    Sequencer,
    Signal,
    StructureError,
    Trace,
    parse,
)

from .generate import DIALECT, Made, MadeBlock, made_texts, tag_soup

OPEN = "<Think>\nSo.\nLet's think in parallel.\n<Parallel>\n<Goal>\n"
OUTLINES = "<Outline>\n1: One.\n</Outline>\n<Outline>\n2: Two.\n</Outline>\n"
PATHS = "<Path>\n1: First.\n</Path>\n<Path>\n2: Second.\n</Path>\n"
CLOSE = "<Conclusion>\nBoth.\n</Conclusion>\n</Parallel>\nDone.\n</Think>\n\nAnswer: 3"
GOOD = f"{OPEN}{OUTLINES}</Goal>\n{PATHS}{CLOSE}"


def tree(text: str, **options: object) -> Trace:
    lexed = lex(text)
    return parse(lexed.ids, lexed.dialect, **options)  # type: ignore[arg-type]


def departures(text: str) -> list[tuple[str, str]]:
    """Code of each issue, and the text from its offset on."""
    lexed = lex(text)
    with pytest.raises(StructureError) as caught:
        parse(lexed.ids, lexed.dialect, strict=True)
    issues = caught.value.issues
    assert list(issues) == sorted(issues, key=lambda issue: issue.offset)
    return [(issue.code, lexed.text(issue.offset, len(lexed.pieces))) for issue in issues]


def test_a_canonical_text_passes_strict_parsing() -> None:
    assert tree(GOOD, strict=True).issues == []


NESTED = f"Let's think in parallel.\n<Parallel>\n<Goal>\n{OUTLINES}</Goal>\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Gaps between tags.
        (GOOD.replace("<Goal>\n", "<Goal>\n\n"), [("outline_gap", "\n\n<Outline>\n1: One.")]),
        (GOOD.replace("<Parallel>\n", "<Parallel> \n"), [("goal_gap", " \n<Goal>\n<Outline>\n")]),
        (GOOD.replace("</Goal>\n", "</Goal>\nso\n"), [("goal_gap", "\nso\n<Path>\n1: First")]),
        (
            GOOD.replace("First.\n</Path>\n", "First.\n</Path>\n\n"),
            [("path_gap", "\n\n<Path>\n2: Second.")],
        ),
        (
            GOOD.replace("Second.\n</Path>\n", "Second.\n</Path>\nmore\n"),
            [("path_gap", "\nmore\n<Conclusion>\nB")],
        ),
        (
            GOOD.replace("</Conclusion>\n", "</Conclusion>\nand\n"),
            [("conclusion_gap", "\nand\n</Parallel>\nDon")],
        ),
        # Labels.
        (GOOD.replace("1: One", "One"), [("outline_label", "<Outline>\nOne.\n</Out")]),
        (
            GOOD.replace("2: Two", "1: Two").replace("2: Second", "1: Second"),
            [("outline_label", "<Goal>\n<Outline>\n1: ")],
        ),
        (GOOD.replace("2: Second", "3: Second"), [("path_label", "<Path>\n3: Second.\n<")]),
        (GOOD.replace("1: First", "First"), [("path_label", "<Path>\nFirst.\n</Pat")]),
        # Paths and outlines.
        (
            GOOD.replace("<Path>\n2: Second.\n</Path>\n", ""),
            [("path_count", "<Conclusion>\nBoth.\n<")],
        ),
        (
            GOOD.replace(OUTLINES, "<Outline>\n1: One.\n</Outline>\n").replace(PATHS, ""),
            [
                ("single_outline", "</Goal>\n<Conclusion>"),
                ("stray_tag", "<Conclusion>\nBoth.\n<"),
                ("stray_tag", "</Conclusion>\n</Para"),
                ("stray_tag", "</Parallel>\nDone.\n</"),
            ],
        ),
        (
            f"{OPEN}</Goal>\nDone.\n</Think>\n\nAnswer: 3",
            [("no_outline", "</Goal>\nDone.\n</Thin")],
        ),
        (
            f"{OPEN}{OUTLINES}</Goal>\nDone.\n</Think>\n\nAnswer: 3",
            [("no_path", "</Goal>\nDone.\n</Thin")],
        ),
        (
            GOOD.replace("<Conclusion>\nBoth.\n</Conclusion>\n", ""),
            [("no_conclusion", "</Parallel>\nDone.\n</")],
        ),
        (
            GOOD.replace("</Conclusion>\n", ""),
            [("unclosed_conclusion", "</Parallel>\nDone.\n</")],
        ),
        # Tags out of place.
        (GOOD.replace("So.", "So.\n<Path>"), [("stray_tag", "<Path>\nLet's think in")]),
        (GOOD.replace("Done.", "Done.\n</Parallel>"), [("stray_tag", "</Parallel>\n</Think>")]),
        (GOOD.replace("Both.", "<Think>\nBoth."), [("stray_tag", "<Think>\nBoth.\n</Con")]),
        (
            GOOD.replace("<Goal>\n", "<Goal>\n<Path>\n").replace(PATHS, ""),
            [
                ("broken_goal", "<Path>\n<Outline>\n1: "),
                ("stray_tag", "<Path>\n<Outline>\n1: "),
                *[("stray_tag", tag) for tag in ("<Outline>\n1: One.\n</", "</Outline>\n<Outline")],
                *[
                    ("stray_tag", tag)
                    for tag in ("<Outline>\n2: Two.\n</", "</Outline>\n</Goal>\n")
                ],
                ("stray_tag", "</Goal>\n<Conclusion>"),
                ("stray_tag", "<Conclusion>\nBoth.\n<"),
                ("stray_tag", "</Conclusion>\n</Para"),
                ("stray_tag", "</Parallel>\nDone.\n</"),
            ],
        ),
        (
            GOOD.replace("First.\n</Path>\n", "First.\n</Path>\n</Path>\n"),
            [("path_gap", "\n</Path>\n<Path>\n2: Se"), ("stray_tag", "</Path>\n<Path>\n2: Sec")],
        ),
        # Cut short.
        ("<Think>\nSo.", [("unclosed_think", "")]),
        (f"{OPEN}<Outline>\n1: One.", [("unclosed", "")] * 3 + [("unclosed_think", "")]),
        (f"{OPEN}{OUTLINES}</Goal>\n", [("unclosed", ""), ("unclosed_think", "")]),
        (
            f"{OPEN}{OUTLINES}</Goal>\n<Path>\n1: Fi",
            [("unclosed", ""), ("unclosed_think", "")],
        ),
        (
            f"{OPEN}{OUTLINES}</Goal>\n{PATHS}<Conclusion>\nBo",
            [("unclosed", ""), ("unclosed_think", "")],
        ),
        # The thought ends inside.
        (
            GOOD.replace("Second.\n</Path>\n", "Second.\n</Think>\n\n"),
            [
                ("unclosed_path", "</Think>\n\n<Conclusio"),
                ("no_conclusion", "</Think>\n\n<Conclusio"),
                ("stray_tag", "<Conclusion>\nBoth.\n<"),
                ("stray_tag", "</Conclusion>\n</Para"),
                ("stray_tag", "</Parallel>\nDone.\n</"),
                ("stray_tag", "</Think>\n\nAnswer: 3"),
            ],
        ),
        (
            GOOD.replace("</Conclusion>\n</Parallel>\nDone.\n", ""),
            [("unclosed_block", "</Think>\n\nAnswer: 3")],
        ),
        (
            GOOD.replace("First.\n", f"First.\n{NESTED}{PATHS}<Conclusion>\nBoth.\n"),
            [("unclosed_block", "</Path>\n<Path>\n2: Sec")],
        ),
    ],
)
def test_strict_parsing_names_every_departure_and_its_place(
    text: str, expected: list[tuple[str, str]]
) -> None:
    found = departures(text)
    assert [code for code, _ in found] == [code for code, _ in expected]
    for (_, rest), (_, place) in zip(found, expected, strict=True):
        assert rest.startswith(place)
        assert bool(rest) == bool(place)
    trace = tree(text)
    assert [issue.code for issue in trace.issues] == [code for code, _ in expected]
    sound(trace.blocks, 0, trace.length)


def test_the_error_tells_the_first_issue_and_how_many_more() -> None:
    ids = [DIALECT[Tag.PATH], DIALECT[Tag.GOAL]]
    with pytest.raises(StructureError) as caught:
        parse(ids, DIALECT, strict=True)
    message = "stray_tag at token 0: <Path> stands here as ordinary text (and 1 more)"
    assert str(caught.value) == message


def test_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one sequence of token ids, got shape \(2, 3\)"):
        parse(np.zeros((2, 3), dtype=int), DIALECT)


# --- against generated texts -----------------------------------------------------------------


def spans(made: Made, at: int = 0) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Of every block, parents first: start, end and the tiles of its paths, by counting."""
    for item in made.items:
        if not isinstance(item, MadeBlock):
            at += len(item)
            continue
        start = at
        at += len(item.opening)
        tiles, inner = [], []
        for path in item.paths:
            body = path.body.tokens()
            tile = at, at + len(path.head) + len(body) + len(path.tail)
            inner += spans(path.body, at + len(path.head))
            tiles.append(tile)
            at = tile[1]
        at += len(item.closing)
        yield start, at, tiles
        yield from inner


@settings(max_examples=200, deadline=None)
@given(made_texts(min_depth=1))
def test_the_tree_is_the_one_the_text_was_made_from(made: Made) -> None:
    trace = parse(made.tokens(), DIALECT)
    found = [
        (block.start, block.end, [(path.start, path.end) for path in block.paths])
        for block, _ in trace.walk()
    ]
    assert found == list(spans(made))
    depths = [depth for _, depth in made.blocks()]
    assert [depth for _, depth in trace.walk()] == depths
    assert (trace.n_blocks, trace.depth) == (len(depths), max(depths, default=0))
    assert trace.n_paths == sum(len(block.paths) for block, _ in made.blocks())
    assert all(block.closed and block.joined for block, _ in trace.walk())


@settings(max_examples=100, deadline=None)
@given(made_texts(canonical=True))
def test_a_canonical_text_has_no_issue_and_a_cut_one_says_so(made: Made) -> None:
    tokens = made.tokens()
    parse(tokens, DIALECT, strict=True)
    cuts = {t for start, end, _ in spans(made) for t in range(start + 1, end)}
    for n in range(len(tokens)):
        cut = parse(tokens[:n], DIALECT)
        assert cut.well_formed == (n not in cuts)
        assert {issue.code for issue in cut.issues} <= {"unclosed"}


def paths_of(trace: Trace) -> list[tuple[int, int, int]]:
    """Start, end and depth of every path."""
    return [(path.start, path.end, depth) for block, depth in trace.walk() for path in block.paths]


@settings(max_examples=100, deadline=None)
@given(st.one_of(made_texts().map(Made.tokens), tag_soup()))
def test_the_tree_of_a_prefix_is_the_prefix_of_the_tree(tokens: list[int]) -> None:
    whole = paths_of(parse(tokens, DIALECT))
    for n in range(len(tokens)):
        cut = [(start, min(end, n), depth) for start, end, depth in whole if start < n]
        assert sorted(paths_of(parse(tokens[:n], DIALECT))) == sorted(cut)


@settings(max_examples=300, deadline=None)
@given(tag_soup(), st.sampled_from([None, 1, 2]), st.sampled_from([None, 0, 1, 2]))
def test_tags_in_any_order_give_a_sound_tree(
    tokens: list[int], branches: int | None, depth: int | None
) -> None:
    trace = parse(tokens, DIALECT, limits=Limits(branches, depth))
    sound(trace.blocks, 0, trace.length)
    for block, at in trace.walk():
        assert len(block.outlines) >= 2
        assert branches is None or len(block.outlines) <= branches
        assert depth is None or at <= depth
    assert all(0 <= issue.offset <= len(tokens) for issue in trace.issues)


def sound(blocks: list[Block], start: int, end: int) -> None:
    """Blocks follow one another, paths tile their region, and everything lies where it is."""
    for block in blocks:
        assert start <= block.start < block.goal[0] < block.goal[1] <= block.region_start
        assert block.region_start < block.region_end <= block.end <= end
        at = block.region_start
        for path in block.paths:
            assert path.start == at < path.end
            assert path.close is None or path.start < path.close <= path.end
            inner(path)
            at = path.end
        if block.conclusion is not None:
            assert block.region_end == block.conclusion[0] < block.conclusion[1] <= block.end
        start = block.region_end  # a block may begin in a conclusion


def inner(path: Path) -> None:
    sound(path.blocks, path.start + 1, path.end if path.close is None else path.close)


# --- the automaton of one sequence -----------------------------------------------------------


def signals(text: str, depth: int = 0, limits: Limits | None = None) -> list[Signal]:
    """What the tags of ``text`` mean to one sequence, plain tokens left out."""
    lexed = lex(text)
    sequencer = Sequencer(lexed.dialect, depth, limits or Limits())
    fed = [sequencer.feed(int(token), i) for i, token in enumerate(lexed.ids)]
    assert all(fed[i] is Signal.NONE for i in np.flatnonzero(lexed.ids >= len(Tag)))
    return [signal for signal in fed if signal is not Signal.NONE]


def goal(n: int) -> str:
    outlines = "".join(f"<Outline>\n{i}: x\n</Outline>\n" for i in range(1, n + 1))
    return f"<Parallel>\n<Goal>\n{outlines}</Goal>\n"


def test_a_goal_forks_from_two_outlines_on() -> None:
    assert [signals(goal(n)) for n in range(5)] == [[], [], *[[Signal.FORK]] * 3]


def test_a_goal_over_a_limit_does_not_fork() -> None:
    assert signals(goal(3), limits=Limits(max_branches=3)) == [Signal.FORK]
    assert signals(goal(4), limits=Limits(max_branches=3)) == []
    assert signals(goal(2), depth=1, limits=Limits(max_depth=2)) == [Signal.FORK]
    assert signals(goal(2), depth=2, limits=Limits(max_depth=2)) == []
    assert signals(goal(2), depth=0, limits=Limits(max_depth=0)) == []


def test_only_a_path_ends_on_its_closing_tag() -> None:
    assert signals("x\n</Path>\n") == []
    assert signals("x\n</Path>\n", depth=1) == [Signal.END_PATH]
    assert signals("x\n</Think>\n", depth=1) == [Signal.END_THINK]


WRITTEN = (
    "<Path>\n1: x\n</Path>\n<Path>\n2: y\n</Path>\n<Conclusion>\nz\n</Conclusion>\n</Parallel>\n"
)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (f"{goal(1)}{WRITTEN}x\n", 0),
        (f"{goal(1)}{WRITTEN}x\n</Path>\n", 1),
        (f"{goal(1)}x\n</Path>\n", 1),  # the paths never came
        (f"{goal(1)}{WRITTEN}<Path>\nx\n</Path>\n", 1),  # its conclusion has come
        (f"{goal(1)}</Parallel>\n<Path>\nx\n</Path>\n", 1),
        (f"{goal(1)}<Path>\n1: x\n</Path>\n</Path>\n", 1),
        (f"{goal(1)}<Path>\n1:\n{goal(1)}{WRITTEN}x\n</Path>\n", 0),
        (f"{goal(1)}<Path>\n1:\n{goal(1)}{WRITTEN}x\n</Path>\n</Path>\n", 1),
        (f"{goal(1)}<Path>\n1:\n{goal(1)}<Path>\n1: x\n</Path>\n</Path>\n</Path>\n", 1),
        ("<Path>\nx\n</Path>\n", 1),  # no declined goal: a <Path> in text opens nothing
    ],
)
def test_paths_of_a_declined_goal_do_not_end_the_path_around_them(text: str, ends: int) -> None:
    assert signals(text, depth=1) == [Signal.END_PATH] * ends


def test_closers_end_a_path_cut_short() -> None:
    lexed = lex(f"{goal(1)}<Path>\n1:\n{goal(1)}<Path>\n1: x")
    sequencer = Sequencer(lexed.dialect, 1)
    assert sequencer.closers == 1
    for i, token in enumerate(lexed.ids):
        sequencer.feed(int(token), i)
    assert sequencer.closers == 3
    fed = [sequencer.feed_tag(Tag.END_PATH, 0) for _ in range(3)]
    assert fed == [Signal.NONE, Signal.NONE, Signal.END_PATH]


def test_outlines_are_known_at_the_fork() -> None:
    lexed = lex(f"x\n{goal(3)}")
    sequencer = Sequencer(lexed.dialect)
    for i, token in enumerate(lexed.ids):
        sequencer.feed(int(token), i)
    assert lexed.pieces[sequencer.block_start] == "<Parallel>"
    assert lexed.pieces[sequencer.goal_start] == "<Goal>"
    texts = [lexed.text(*span) for span in sequencer.outlines]
    assert texts == [f"<Outline>\n{i}: x\n</Outline>" for i in (1, 2, 3)]
    labels = [lexed.dialect.label(lexed.ids[s + 1 : e].tolist()) for s, e in sequencer.outlines]
    assert labels == [lexed.dialect.ordinal(i) for i in range(3)]


def test_a_copy_shares_no_open_path() -> None:
    lexed = lex(f"{goal(1)}<Path>\n1: x\n")
    sequencer = Sequencer(lexed.dialect, 1)
    for i, token in enumerate(lexed.ids):
        sequencer.feed(int(token), i)
    copy = sequencer.copy()
    for _ in range(2):
        copy.feed_tag(Tag.END_PATH, 0)
    assert (sequencer.closers, copy.closers) == (2, 1)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.data())
def test_a_copy_goes_its_own_way(n: int, data: st.DataObject) -> None:
    goal = [Tag.PARALLEL, Tag.GOAL, *[Tag.OUTLINE, Tag.END_OUTLINE] * n, Tag.END_GOAL, Tag.PATH]
    steps = st.lists(st.sampled_from([*Tag, Tag.END_OUTLINE, Tag.END_GOAL, Tag.END_PATH]))
    head = [int(tag) for tag in goal[: data.draw(st.integers(0, len(goal)))]]
    mine, others = ([int(tag) for tag in data.draw(steps)] for _ in range(2))

    def feed(sequencer: Sequencer, tokens: list[int]) -> list[Signal]:
        return [sequencer.feed(token, i) for i, token in enumerate(tokens)]

    limits = Limits(max_branches=2)
    sequencer, again = Sequencer(DIALECT, 1, limits), Sequencer(DIALECT, 1, limits)
    feed(sequencer, head)
    feed(again, head)
    copy = sequencer.copy()
    feed(sequencer, others)
    assert feed(copy, mine) == feed(again, mine)
    assert (copy.outlines, copy.open_tags, copy.closers) == (
        again.outlines,
        again.open_tags,
        again.closers,
    )
