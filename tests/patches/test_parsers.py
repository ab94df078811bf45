"""Answers that people parse, without a server: tags as text, the thought, grammars."""

from __future__ import annotations

import os
import random
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang", reason="the serve extra is not installed")
os.environ.setdefault("SGLANG_PLATFORM", "torch_cpu")

import torch
from sglang.srt.constrained.reasoner_grammar_backend import ReasonerGrammarObject
from sglang.srt.constrained.xgrammar_backend import XGrammarGrammarBackend
from sglang.srt.parser.reasoning_parser import ReasoningParser
from sglang.srt.parser.reasoning_parser_names import REASONING_PARSER_NAMES
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sglang_multiverse.dialect import MULTIVERSE, Dialect, Tag
from sglang_multiverse.patches import http_process
from sglang_multiverse.patches.answers import parsers, reasoning_tokens
from sglang_multiverse.patches.answers.grammar import HOOKS as GRAMMAR_HOOKS
from sglang_multiverse.patches.answers.thought import Count, opened_by
from sglang_multiverse.patches.answers.thought_grammar import ThoughtGrammar, forks, permit
from sglang_multiverse.patches.hooks import problems
from sglang_multiverse.tag_tokens import tags_as_text
from sglang_multiverse.tiny import MODEL_DIR

TAGS = MULTIVERSE.tags
THOUGHT = "<Think>\nLet's see.\n<Parallel>\n<Path>\n1: a\n</Path>\n</Parallel>\n</Think>"


def tiny() -> Any:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


def byte_level(prefix_space: bool) -> Any:
    """A byte-level BPE like GPT-2's and Qwen's, tags special, other added tokens of both kinds."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        ["the quick brown fox, 1: A = 23+45 <Think> naïve 数 "] * 9,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    made.add_tokens([AddedToken("<tool_call>", normalized=False)])
    made.add_special_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    made.add_special_tokens([AddedToken("<|im_end|>", lstrip=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", extra_special_tokens=list(TAGS)
    )


def tiny_with_special_tags() -> Any:
    made = tiny()
    made.add_special_tokens({"extra_special_tokens": ["<|im_start|>", *TAGS]})
    return made


MAKERS = {
    "tiny": tiny_with_special_tags,
    "gpt2": lambda: byte_level(False),
    "prefix": lambda: byte_level(True),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_only_whether_tags_can_be_hidden_changes(kind: str) -> None:
    before, after = MAKERS[kind](), MAKERS[kind]()
    assert before.decode(before.encode("a<Path>"), skip_special_tokens=True).strip() == "a"
    assert tags_as_text(after) == sorted(TAGS)
    assert tags_as_text(after) == []
    assert after.get_vocab() == before.get_vocab()
    assert after.all_special_tokens == [t for t in before.all_special_tokens if t not in TAGS]
    tags = {before.convert_tokens_to_ids(tag) for tag in TAGS}
    known = before.backend_tokenizer.get_added_tokens_decoder()
    others = {i for i, token in known.items() if token.special} - tags
    rng = random.Random(0)
    pieces = [
        *TAGS,
        *TAGS,
        "<|im_end|>",
        "<|endoftext|>",
        "<tool_call>",
        " fox",
        "数",
        "\n",
        " ",
        "1:",
    ]
    for _ in range(300):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(0, 12)))
        ids = before.encode(text)
        assert after.encode(text) == ids
        assert after(text, return_offsets_mapping=True) == before(text, return_offsets_mapping=True)
        anything = [rng.randrange(len(before)) for _ in range(rng.randint(0, 12))]
        for run in (ids, anything):
            shown = [i for i in run if i not in others]
            assert after.decode(run) == before.decode(run)
            assert after.decode(run, skip_special_tokens=True) == before.decode(shown)
            assert after.batch_decode([run], skip_special_tokens=True) == [before.decode(shown)]


def test_tags_stay_text_when_saved(tmp_path: Any) -> None:
    made = tiny_with_special_tags()
    tags_as_text(made)
    made.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert tags_as_text(again) == []
    assert again.get_vocab() == made.get_vocab()


def test_the_tiny_models_tags_are_text_as_shipped() -> None:
    assert tags_as_text(tiny()) == []


def test_a_tokenizer_that_cannot_be_changed_is_an_error() -> None:
    slow = SimpleNamespace(
        get_vocab=lambda: {tag: i for i, tag in enumerate(TAGS)}, all_special_tokens=list(TAGS)
    )
    with pytest.raises(TypeError, match="tokenizer-mode slow"):
        tags_as_text(slow)


# The thought.


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReasoningParser, "DetectorMap", {**ReasoningParser.DetectorMap})
    parsers.offer()
    parsers.install()


def parser(**changes: Any) -> Any:
    # SGLang's serving forces reasoning for every request of a parser that grammars wait for.
    return ReasoningParser("multiverse", force_reasoning=True, tokenizer=tiny(), **changes)


def streamed(made: Any, text: str, seed: int) -> tuple[str, str]:
    rng, at, out = random.Random(seed), 0, ["", ""]
    while at < len(text):
        size = rng.randint(1, 9)
        for i, part in enumerate(made.parse_stream_chunk(text[at : at + size])):
            out[i] += part or ""
        at += size
    for i, part in enumerate(made.parse_stream_end()):
        out[i] += part or ""
    return out[0], out[1]


def test_the_name_is_a_choice() -> None:
    assert "multiverse" in REASONING_PARSER_NAMES
    assert "multiverse" in ReasoningParser.DetectorMap


ANSWERS = {
    THOUGHT + "\n\nAnswer: 3": (THOUGHT[7:-8], "\n\nAnswer: 3"),
    "Answer: 3": ("", "Answer: 3"),
    "": ("", ""),
    "<Think>\ncut in <Pa": ("\ncut in <Pa", ""),
    "<Think>\ncut in </Thi": ("\ncut in </Thi", ""),
    "A word. <Think>x</Think> y <Think> z": ("x", "A word.  y <Think> z"),
    "a <Thin": ("", "a <Thin"),
    "no </Think> thought": ("", "no </Think> thought"),
    "<Think></Think>": ("", ""),
}


@pytest.mark.parametrize("text", ANSWERS)
def test_the_thought_is_split_off(text: str) -> None:
    thought, content = ANSWERS[text]
    assert parser().parse_non_stream(text) == (thought, content)
    for seed in range(20):
        assert streamed(parser(), text, seed) == (thought, content)
        assert streamed(parser(stream_reasoning=False), text, seed) == (thought, content)


def test_a_thought_streams_as_it_comes_unless_told_otherwise() -> None:
    assert parser().parse_stream_chunk("<Think>abc") == ("abc", "")
    held = parser(stream_reasoning=False)
    assert held.parse_stream_chunk("<Think>abc") == ("", "")
    assert held.parse_stream_chunk("d</Think>e") == ("abcd", "e")


def test_a_template_or_a_message_may_have_opened_the_thought() -> None:
    opens = tiny()
    opens.chat_template = opens.chat_template.replace("assistant\n' }}", "assistant\n<Think>\n' }}")
    assert "<Think>" in opens.chat_template
    made = ReasoningParser("multiverse", force_reasoning=True, tokenizer=opens)
    assert made.parse_non_stream("x</Think>y") == ("x", "y")
    detector = ReasoningParser.DetectorMap["multiverse"]
    for said, thought, content in [
        ("<Think>\nso", "x", "y"),
        ("<Think>a</Think>b", "", "x</Think>y"),
    ]:
        part = detector(continue_final_message=True, previous_content=said).detect_and_parse(
            "x</Think>y"
        )
        assert (part.reasoning_text, part.normal_text) == (thought, content)


def test_content_can_be_asked_for() -> None:
    detector = ReasoningParser.DetectorMap["multiverse"]
    for text, expected in [
        ("<Think>x", ("", "x")),
        ("<Think>x</Think>y", ("x", "y")),
        ("y", ("", "y")),
    ]:
        part = detector(force_nonempty_content=True).detect_and_parse(text)
        assert (part.reasoning_text, part.normal_text) == expected


def test_tokens_of_the_thought_are_counted_through_its_end() -> None:
    tokenizer = tiny()
    dialect = Dialect.from_tokenizer(tokenizer)
    for text, (thought, _) in ANSWERS.items():
        ids = tokenizer.encode(text)
        opener = text.find("<Think>")
        expected = 0
        if opener >= 0:
            closed = text.find("</Think>", opener)
            end = len(text) if closed < 0 else closed + len("</Think>")
            expected = len(tokenizer.encode(text[opener:end]))
        whole = Count(opened=False)
        assert whole.take(ids, dialect) == expected, (text, thought)
        piecewise = Count(opened=False)
        for end in range(len(ids) + 1):
            piecewise.take(ids[:end], dialect)
        assert piecewise.tokens == expected
    assert Count(opened=True).take(tokenizer.encode("ab</Think>c"), dialect) == len(
        tokenizer.encode("ab</Think>")
    )


def test_a_prompt_opens_a_thought_in_the_assistants_turn_only() -> None:
    tokenizer = tiny()
    dialect = Dialect.from_tokenizer(tokenizer)

    def opened(text: str) -> bool:
        return opened_by(tokenizer.encode(text), dialect)

    user, turn = "<|im_start|>user\nwhat is <Think>?<|im_end|>\n", "<|im_start|>assistant\n"
    assert not opened(user + turn)
    assert opened(user + turn + "<Think>\nso")
    assert not opened(user + turn + "<Think>\nso</Think>")
    assert not opened(turn + "<Think>\nso<|im_end|>\n" + user)
    assert opened("so <Think>\nit is")


# Grammars.


def waiting(regex: str = "[0-9]+", *, waits: bool = True, opened: bool = False) -> Any:
    tokenizer = tiny()
    dialect = Dialect.from_tokenizer(tokenizer)
    backend = XGrammarGrammarBackend(
        tokenizer, vocab_size=len(tokenizer), model_eos_token_ids=[tokenizer.eos_token_id]
    )
    inner = ReasonerGrammarObject(backend.dispatch_regex(regex), [dialect[Tag.END_THINK]])
    inner.maybe_init_reasoning(waits)
    made = ThoughtGrammar.like(inner, dialect).copy()
    made.begin(waits=waits, opened=opened)
    return made, tokenizer


def allowed(grammar: Any, tokenizer: Any) -> set[str]:
    mask = grammar.allocate_vocab_mask(len(tokenizer), 2, "cpu")
    grammar.fill_vocab_mask(mask, 1)
    assert bool((mask[0] == -1).all())
    bits = ((mask[1][:, None] >> torch.arange(32)) & 1).flatten()[: len(tokenizer)]
    return {tokenizer.convert_ids_to_tokens(i) for i in bits.nonzero().flatten().tolist()}


def test_a_grammar_waits_for_the_end_of_the_thought() -> None:
    grammar, tokenizer = waiting()
    digits = set("0123456789")
    assert forks(grammar)
    assert allowed(grammar, tokenizer) == {*digits, "<Think>"}
    for token in tokenizer.encode(THOUGHT)[:-1]:
        grammar.accept_token(token)
        assert forks(grammar)
        assert len(allowed(grammar, tokenizer)) == len(tokenizer)
    grammar.accept_token(tokenizer.convert_tokens_to_ids("</Think>"))
    assert not forks(grammar)
    assert allowed(grammar, tokenizer) == digits
    grammar.accept_token(tokenizer.convert_tokens_to_ids("7"))
    assert allowed(grammar, tokenizer) == {*digits, "<|im_end|>"}
    assert allowed(grammar.copy(), tokenizer) == {*digits}  # a copy is a fresh matcher


def test_an_answer_without_a_thought_is_constrained_from_its_first_token() -> None:
    grammar, tokenizer = waiting()
    grammar.accept_token(tokenizer.convert_tokens_to_ids("4"))
    assert not forks(grammar)
    assert allowed(grammar, tokenizer) == {*"0123456789", "<|im_end|>"}


def test_a_thought_that_the_prompt_has_opened_is_under_way() -> None:
    grammar, tokenizer = waiting(opened=True)
    assert forks(grammar)
    assert len(allowed(grammar, tokenizer)) == len(tokenizer)


def test_no_tag_is_a_token_of_what_is_constrained() -> None:
    grammar, tokenizer = waiting("[a-zA-Z<>/]+")
    assert not set(TAGS[1:]) & allowed(grammar, tokenizer)
    grammar.accept_token(tokenizer.convert_tokens_to_ids("<Think>"))
    grammar.accept_token(tokenizer.convert_tokens_to_ids("</Think>"))
    words = allowed(grammar, tokenizer)
    assert not set(TAGS) & words
    assert {"<", "T", ">"} <= words


def test_a_grammar_of_the_whole_answer_does_not_fork() -> None:
    grammar, tokenizer = waiting("<Think>[0-9]+", waits=False)
    assert not forks(grammar)
    assert "<Think>" in allowed(grammar, tokenizer)
    assert forks(None)
    assert not forks(ReasonerGrammarObject(grammar.grammar, [4]))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
def test_permit_changes_the_bits_it_names(dtype: torch.dtype) -> None:
    rng = random.Random(1)
    for _ in range(50):
        size = 130
        bits = torch.tensor([rng.random() < 0.5 for _ in range(size)])
        ids = [rng.randrange(size) for _ in range(5)]
        flag = rng.random() < 0.5
        expected = bits.clone()
        expected[ids] = flag
        if dtype is torch.bool:
            mask = ~bits[None].clone()
            permit(mask, 0, ids, flag)
            found = ~mask[0]
        else:
            padded = torch.zeros(160, dtype=torch.int64)
            padded[:size] = bits
            words = (padded.view(-1, 32) << torch.arange(32)).sum(1)
            mask = torch.where(words >= 2**31, words - 2**32, words).to(dtype)[None]
            permit(mask, 0, ids, flag)
            found = ((mask[0][:, None] >> torch.arange(32)) & 1).flatten()[:size].bool()
        assert torch.equal(found, expected)


def test_every_target_is_as_expected() -> None:
    assert problems([*GRAMMAR_HOOKS, *reasoning_tokens.HOOKS, *http_process.HOOKS]) == []
    parts = (http_process.stream, http_process.events)
    whole = (http_process.tokenizer.HOOKS, http_process.view.HOOKS)
    rooms = (*whole, *(part.MAIN_HOOKS for part in parts))
    assert set().union(*rooms) == set(http_process.HOOKS)
