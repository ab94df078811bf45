"""Finding a dialect in a tokenizer, and what it makes the engine inject."""

from __future__ import annotations

import dataclasses

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from sglang_multiverse.dialect import (
    MULTIVERSE,
    Dialect,
    DialectError,
    DialectSpec,
    Tag,
)

from .tokenizers_made import Bound, byte_level

OTHER = dataclasses.replace(
    MULTIVERSE, name="other", tags=tuple(tag.replace("<", "<|") for tag in MULTIVERSE.tags)
)


def ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def words(*vocabulary: str) -> Bound:
    """A tokenizer of whole words between spaces, with the tags."""
    vocab = {word: i for i, word in enumerate(["?", *vocabulary, *MULTIVERSE.tags])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Bound(tokenizer)


def test_tags_come_in_pairs() -> None:
    assert len(Tag) == len(MULTIVERSE.tags) == 12
    for tag in Tag:
        assert tag.partner.partner is tag
        assert tag.partner.is_open != tag.is_open
        opener = tag if tag.is_open else tag.partner
        assert MULTIVERSE[opener.partner] == MULTIVERSE[opener].replace("<", "</")


def test_a_dialect_is_found_by_its_tags() -> None:
    tokenizer = byte_level()
    dialect = Dialect.from_tokenizer(Bound(tokenizer))
    assert dialect.name == "multiverse"
    for tag in Tag:
        assert dialect[tag] == tokenizer.token_to_id(MULTIVERSE[tag])
        assert dialect.tag_of[dialect[tag]] is tag
    assert dialect.separator == ids(tokenizer, "\n")
    assert dialect.colon == tokenizer.token_to_id(":")


def test_what_is_injected_is_what_the_canonical_text_has() -> None:
    tokenizer = byte_level()
    dialect = Dialect.from_tokenizer(Bound(tokenizer))
    assert dialect.goal_tail == dialect.path_tail == ids(tokenizer, "\n")
    assert dialect.conclusion_seed == ids(tokenizer, "<Conclusion>\n")
    for index, label in [(0, "1"), (8, "9"), (9, "10"), (175, "176")]:
        assert dialect.path_seed(dialect.ordinal(index)) == ids(tokenizer, f"<Path>\n{label}:")
        assert ids(tokenizer, MULTIVERSE.path_header(label)) == ids(tokenizer, f"<Path>\n{label}:")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("\n1: The first.\n", "1"),
        ("1: no line break", "1"),
        ("\n2.1: nested\n", "2.1"),
        ("\n176: many", "176"),
        ("\n3.1.1:", "3.1.1"),
        ("\n: nothing before the colon", None),
        ("\nFirst: a word", None),
        ("\n1 The first", None),
        ("\n\n1: two line breaks", None),
        ("\n1", None),
        ("", None),
        ("\n1111111111111111: sixteen digits", "1111111111111111"),
        ("\n11111111111111111: seventeen digits", None),
    ],
)
def test_labels(text: str, label: str | None) -> None:
    tokenizer = byte_level()
    dialect = Dialect.from_tokenizer(Bound(tokenizer))
    expected = None if label is None else ids(tokenizer, label)
    assert dialect.label(ids(tokenizer, text)) == expected


def test_numbers_that_are_one_token_are_labels_too() -> None:
    tokenizer = byte_level(merges=[("1", "2"), ("12", "3")])
    dialect = Dialect.from_tokenizer(Bound(tokenizer))
    assert dialect.ordinal(122) == ids(tokenizer, "123") == (tokenizer.token_to_id("123"),)
    assert dialect.label(ids(tokenizer, "\n12: x")) == (tokenizer.token_to_id("12"),)


def test_a_missing_tag_is_named() -> None:
    tags = [tag for tag in MULTIVERSE.tags if tag not in ("</Goal>", "<Path>")]
    with pytest.raises(DialectError, match="multiverse lacks </Goal>, <Path>"):
        Dialect.from_tokenizer(Bound(byte_level(tags)))


def test_two_dialects_are_ambiguous_until_one_is_named() -> None:
    tokenizer = Bound(byte_level((*MULTIVERSE.tags, *OTHER.tags)))
    specs = (MULTIVERSE, OTHER)
    with pytest.raises(DialectError, match="several dialects: multiverse, other"):
        Dialect.from_tokenizer(tokenizer, specs=specs)
    assert Dialect.from_tokenizer(tokenizer, specs=specs, name="other").spec is OTHER
    with pytest.raises(DialectError, match=r"unknown dialect 'third'; known: multiverse, other"):
        Dialect.from_tokenizer(tokenizer, specs=specs, name="third")


def test_an_incomplete_dialect_does_not_hide_a_complete_one() -> None:
    tokenizer = Bound(byte_level((*MULTIVERSE.tags, *OTHER.tags[:5])))
    assert Dialect.from_tokenizer(tokenizer, specs=(OTHER, MULTIVERSE)).spec is MULTIVERSE


@pytest.mark.parametrize("fused", ["1:", "10:"])
def test_a_fused_colon_is_refused(fused: str) -> None:
    merges = [("1", ":")] if fused == "1:" else [("0", ":")]
    with pytest.raises(DialectError, match=r"fuses the colon of '10?:' with its number"):
        Dialect.from_tokenizer(Bound(byte_level(merges=merges)))


def test_a_colon_fused_with_a_dot_is_refused() -> None:
    with pytest.raises(DialectError, match="fuses"):
        Dialect.from_tokenizer(Bound(byte_level(merges=[(".", "1"), (".1", ":")])))


def test_a_separator_that_vanishes_is_refused() -> None:
    with pytest.raises(DialectError, match=r"separator '\\n' to nothing"):
        Dialect.from_tokenizer(words("1", ":"))


def test_a_dialect_needs_twelve_distinct_tags() -> None:
    with pytest.raises(DialectError, match="12 distinct tags"):
        DialectSpec(name="short", tags=MULTIVERSE.tags[:-1])
    with pytest.raises(DialectError, match="12 distinct tags"):
        DialectSpec(name="double", tags=(*MULTIVERSE.tags[:-1], "<Think>"))
    dialect = Dialect.from_tokenizer(Bound(byte_level()))
    with pytest.raises(DialectError, match="share one token id"):
        dataclasses.replace(dialect, tag_ids=(1, *dialect.tag_ids[2:], 1))
