"""Sentences under steps: read from an LLM's lines, held to the chain, split and repeated."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_multiverse.data_pipeline.gates import CURATION
from sglang_multiverse.data_pipeline.outline import Outline, parse_outline
from sglang_multiverse.data_pipeline.recipe import Recipe
from sglang_multiverse.data_pipeline.record import Record
from sglang_multiverse.data_pipeline.source.sentences import split_sentences
from sglang_multiverse.data_pipeline.stages.filling import filled_outline
from sglang_multiverse.data_pipeline.stages.placing import read_placement
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette, Replied, load_all
from sglang_multiverse.text import parse_text

from .driving import CASSETTES, drive

TWO = parse_outline("S1: a\nS2: b\n")
CHAIN = "One. Two. Three. Four."

GROUP = parse_outline(
    "S1: a\n<parallel>\n<branch>\nS2: b\nS3: c\n</branch>\n<branch>\nS4: d\n</branch>\n"
    "</parallel>\nS5: e\n"
)
BOTH = "Let n be given. Put m = n/2. The even ones give 12, the odd ones 9. So many. So few. Done."


def codes(lines: str, outline: Outline = TWO, source: str = CHAIN) -> list[str]:
    return [finding.code for finding in read_placement(lines, outline, source).findings]


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("S1: 1-3\nS2: 4", []),
        ("S1: [1]-[3]\n- **S2**: 4", []),
        ("S1: 1 to 3\nS2: 4, 5", ["unknown-sentence"]),
        ("S1: 1-3\nS2: four", ["unreadable-line", "missing-sentence"]),
        ("S1: 1-4\nS2: -", []),
        ("S2: 4\nS1: 1-3", []),
        ("S1: 1-4", ["missing-step"]),
        ("S1: 1-4\nS2: -\nS3: -", ["added-step"]),
        ("S1: 1-4\nS1: -\nS2: -", ["repeated-step"]),
        ("Here you are:\nS1: 1-4\nS2: -", ["unreadable-line"]),
        ("S1: 3-1\nS2: 1-4", ["unknown-sentence"]),
        ("S1: 1-3\nS2: 3, 4", ["duplicated-sentence"]),
        ("S1: 1, 1-3\nS2: 4", ["duplicated-sentence"]),
        ("S1: 1, 3\nS2: 2, 4", ["moved-sentence"]),
        ("S1: 2, 1\nS2: 3-4", ["moved-sentence"]),
        ("S1: 1a\nS2: 2-4", ["unknown-sentence", "missing-sentence"]),
        ("", ["missing-step", "missing-step", "missing-sentence"]),
    ],
)
def test_reading_a_placement(lines: str, wanted: list[str]) -> None:
    assert codes(lines) == wanted


SPLIT = "Split 3: The even ones give 12, <cut> the odd ones 9.\n"
AT_ITS_EDGE = "Split 3: The even ones give 12, the odd ones 9. <cut>\n"


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (SPLIT + "S1: 1, 2\nS2: 3a, 4\nS3: -\nS4: 3b, 5\nS5: 6", []),
        ("S1: 1\nS2: +2, 3\nS3: 4\nS4: +2, 5\nS5: 6", []),
        (SPLIT + "S1: 1\nS2: +2, 3a, 4\nS3: -\nS4: +2, 3b, 5\nS5: 6", []),
        (SPLIT + "S1: 1-6\nS2: -\nS3: -\nS4: -\nS5: -", []),  # all of 3 is there
        # A plus that stands once, in one branch twice, outside the group, or on one of two.
        ("S1: 1\nS2: +2, 3\nS3: 4\nS4: 5\nS5: 6", ["duplicated-sentence"]),
        ("S1: 1\nS2: +2, 3\nS3: +2, 4\nS4: 5\nS5: 6", ["duplicated-sentence"]),
        ("S1: 1, +2\nS2: 3\nS3: 4\nS4: +2, 5\nS5: 6", ["duplicated-sentence"]),
        ("S1: 1\nS2: 2, 3\nS3: 4\nS4: 2, 5\nS5: 6", ["duplicated-sentence"]),
        # Three of six.
        ("S1: 1\nS2: +2, +3\nS3: +4\nS4: +2, +3, +4, 5\nS5: 6", ["repeated-sentence"]),
        # The copy is changed, not cut, cut at its edge, of another sentence, or of none.
        (SPLIT.replace("12", "13") + "S1: 1-4\nS2: 5\nS3: -\nS4: 6\nS5: -", ["changed-sentence"]),
        (SPLIT.replace("<cut>", "") + "S1: 1-4\nS2: 5\nS3: -\nS4: 6\nS5: -", ["empty-part"]),
        (AT_ITS_EDGE + "S1: 1-4\nS2: 5\nS3: -\nS4: 6\nS5: -", ["empty-part"]),
        (SPLIT.replace("3:", "2:") + "S1: 1-4\nS2: 5\nS3: -\nS4: 6\nS5: -", ["changed-sentence"]),
        (SPLIT.replace("3:", "9:") + "S1: 1-4\nS2: 5\nS3: -\nS4: 6\nS5: -", ["unknown-sentence"]),
        # Half of it is lost.
        (SPLIT + "S1: 1, 2\nS2: 3a, 4\nS3: -\nS4: 5\nS5: 6", ["missing-sentence"]),
    ],
)  # fmt: skip
def test_a_sentence_may_be_split_or_repeated_between_branches(
    lines: str, wanted: list[str]
) -> None:
    assert codes(lines, GROUP, BOTH) == wanted


def test_spans_point_at_what_is_meant() -> None:
    (cassette,) = [one for one in load_all(CASSETTES) if one.name == "lost-sentence"]
    outline = parse_outline("S1: a\nS2: b\nS3: c\nS4: d\nS5: e\n")
    reply = cassette.replies["fill"][0].text or ""
    found = {f.code: f for f in read_placement(reply, outline, cassette.chain).findings}
    start, end = found["missing-sentence"].span or (0, 0)
    assert cassette.chain[start:end].strip() == "Modulo 7 it is 4, and modulo 11 it is 3."
    start, end = found["duplicated-sentence"].span or (0, 0)
    assert cassette.chain[start:end].strip() == "No remainder is 0."


def _spaceless(text: str) -> str:
    return "".join(text.split())


words = st.sampled_from(["red", "blue", "3", "x = 4", "green,", "$a. b$"])
sentences = st.lists(words, min_size=2, max_size=6).map(lambda some: " ".join(some) + ".")


@given(st.lists(sentences, min_size=5, max_size=20), st.data())
def test_what_is_placed_is_the_chain_and_what_was_repeated(
    chain: list[str], data: st.DataObject
) -> None:
    """Cut anywhere, split anywhere: nothing is lost, and only what is marked comes twice."""
    source = data.draw(st.sampled_from([" ", "\n", " \n\n "])).join(chain)
    spans = split_sentences(source)
    count = len(spans)
    if count < 4:
        return
    cuts = sorted(data.draw(st.permutations(range(1, count)))[:3])
    a, b, c = cuts
    cut = data.draw(st.integers(a, b - 1))  # of the first branch
    said = source[slice(*spans[cut])].split()
    at = data.draw(st.integers(1, max(len(said) - 1, 1)))
    split = len(said) > 1
    lines = [f"Split {cut + 1}: {' '.join(said[:at])} <cut> {' '.join(said[at:])}"] if split else []
    part = f"{cut + 1}a" if split else f"+{cut + 1}"
    other = f"{cut + 1}b" if split else f"+{cut + 1}"
    own = [str(n + 1) for n in range(a, b) if n != cut]
    lines += [f"S1: 1-{a}", f"S2: {', '.join([*own, part])}", "S3: -"]
    lines += [f"S4: {other}, {b + 1}-{c}", f"S5: {c + 1}-{count}"]
    placed = read_placement("\n".join(lines), GROUP, source)
    assert placed.findings == []
    assert len(list(placed.notes())) == (2 if split else 1)
    filled = filled_outline(source, GROUP, placed)
    repeated = "" if split else _spaceless(source[slice(*spans[cut])])
    assert sorted(_spaceless(filled.text)) == sorted(_spaceless(source) + repeated)


BLOCK = """<Parallel>
<Goal>
<Outline>
1: Count the even ones.
</Outline>
<Outline>
2: Count the odd ones.
</Outline>
</Goal>
<Path>
1: With m = n/2, the even ones give 12. So many.
</Path>
<Path>
2: With m = n/2, the odd ones give 9. So few.
</Path>
<Conclusion>
There are 12 and 9.
</Conclusion>
</Parallel>"""


def _curated(block: str) -> Record:
    fill = f"{SPLIT}S1: 1\nS2: +2, 3a, 4\nS3: -\nS4: +2, 3b, 5\nS5: 6"
    goals = "B1\n1: Count the even ones.\n2: Count the odd ones.\n"
    said = {
        "outline-steps": "S1: a\nS2: b\nS3: c\nS4: d\nS5: e\n",
        "outline-groups": GROUP.render(),
        "fill": fill,
        "frame": f"{goals}Conclusion: There are 12 and 9.",
        "rewrite B1": block,
    }
    replies = {name: (Replied(text),) * 3 for name, text in said.items()}
    driven = drive(
        Cassette("both", "How many?", BOTH, attempt="Answer: 21", replies=replies),
        Recipe("teacher", gates=replace(CURATION, require_block=False)),
    )
    assert isinstance(driven.result, Record), driven.result
    return driven.result


def test_both_paths_have_what_both_need_and_the_notes_say_so() -> None:
    record = _curated(BLOCK)
    (block,) = parse_text(record.text).blocks
    assert all("m = n/2" in str(path.content[0]) for path in block.paths)
    assert [(note.gate, note.code) for note in record.notes] == [
        ("coverage", "repeated-sentence"),
        ("coverage", "split-sentence"),
        ("coverage", "split-sentence"),
    ]


def test_a_block_that_is_undone_says_nothing_twice() -> None:
    record = _curated("I had rather not give a block.")
    thought = "".join(map(str, parse_text(record.text).thought or []))
    assert not parse_text(record.text).blocks
    assert _spaceless(thought) == _spaceless(BOTH)


pieces = st.sampled_from(
    ["S1: ", "S2:", "S4: ", "Split 3: ", f"Split {'9' * 5000}: ", "1-3", "+2", "3a", "٣", "99999",
     "9" * 5000, ", ", "-", "\n", "<cut>", "The even ones give 12, ", "the odd ones 9.", "\0", "é"]
)  # fmt: skip


@given(st.lists(pieces, max_size=30).map("".join))
def test_no_reply_makes_it_raise_and_what_it_accepts_is_whole(text: str) -> None:
    placed = read_placement(text, GROUP, BOTH)
    if not placed.findings:
        filled = filled_outline(BOTH, GROUP, placed)
        assert set(_spaceless(BOTH)) <= set(_spaceless(filled.text))
        assert len(list(placed.notes())) < 10
