"""Sentences tile the text, and what belongs together stays together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_multiverse.data_pipeline.source.sentences import split_sentences, trimmed


def sentences(text: str) -> list[str]:
    return [text[slice(*trimmed(text, span))] for span in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("One\nTwo\n\nThree", ["One", "Two", "Three"]),
        ("It is 3.5 or .25. Then 4.", ["It is 3.5 or .25.", "Then 4."]),
        ("See e.g. Fig. 3 of Dr. Gauss, i.e. this. So.", None),
        ("1. First item\n2. Second item. More", ["1. First item", "2. Second item.", "More"]),
        ('He said "no." She left.', ['He said "no."', "She left."]),
        ("Hmm... well. Wait… no. Yes.", ["Hmm... well.", "Wait… no.", "Yes."]),
        ("So it is A. Next.", ["So it is A.", "Next."]),
        (r"Let \(x. y\) be. \[ a. b \] c. $p. q$ r.", None),
        ("It costs $5. Or $6. Both.", ["It costs $5.", "Or $6.", "Both."]),
        ("```py\na. b\nc. d\n```\nEnd.", ["```py\na. b\nc. d\n```", "End."]),
        ("\\begin{align}\na = 1. \\\\\nb\n\\end{align} So.", None),
    ],
)
def test_sentences_of(text: str, wanted: list[str] | None) -> None:
    if wanted is not None:
        assert sentences(text) == wanted
        return
    # Where nothing is listed: no cut inside mathematics or after an abbreviation.
    found = sentences(text)
    assert len(found) <= 3
    assert not any(one.endswith(("e.g.", "Fig.", "Dr.", "i.e.", "a.", "x.", "p.")) for one in found)


alphabet = st.sampled_from(
    ["a", "B", "1", ".", "!", "?", " ", "\n", "$", "\\(", "\\)", "\\[", "\\]", "`", "```", "…", '"',
     "\\begin{x}", "\\end{x}", "e.g.", "\t", "\r\n"]
)  # fmt: skip


@given(st.lists(alphabet, max_size=60).map("".join))
def test_spans_tile_the_text(text: str) -> None:
    spans = split_sentences(text)
    assert bool(spans) == bool(text.strip())
    assert "".join(text[slice(*span)] for span in spans) == (text if spans else "")
    for start, end in spans:
        inner = trimmed(text, (start, end))
        assert start <= inner[0] < inner[1] <= end
        assert text[slice(*inner)] == text[start:end].strip()


@given(st.lists(alphabet, max_size=40).map("".join))
def test_a_sentence_of_its_own_is_one_sentence(text: str) -> None:
    for start, end in split_sentences(text):
        assert len(split_sentences(text[start:end])) >= 1
