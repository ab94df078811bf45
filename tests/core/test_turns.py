"""Tags are structure in what an assistant says, and words everywhere else."""

from __future__ import annotations

import pytest

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.structure import parse, tag_offsets
from sglang_multiverse.turns import Turns

from .generate import DIALECT, WORD

OPEN, CLOSE = (90_001, 90_002), 90_003
TURNS = Turns(OPEN, CLOSE)


class Template:
    """A tokenizer with a chat template, a token per character but for its special ones."""

    def __init__(self, parts: dict[str, str], special: list[str]):
        self.parts = parts
        self.chat_template = "set"
        self.vocab = {text: 1000 + i for i, text in enumerate(special)}

    @property
    def all_special_ids(self) -> list[int]:
        return list(self.vocab.values())

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids = []
        while text:
            found = next((s for s in self.vocab if text.startswith(s)), None)
            ids.append(self.vocab[found] if found else ord(text[0]))
            text = text[len(found or "x") :]
        return ids

    def apply_chat_template(self, messages: list[dict[str, str]], *, tokenize: bool) -> str:
        assert not tokenize
        return "".join(self.parts[m["role"]].replace("@", m["content"]) for m in messages)


FRAMES = {
    "chatml": (
        {
            "user": "<|im_start|>user\n@<|im_end|>\n",
            "assistant": "<|im_start|>assistant\n@<|im_end|>\n",
        },
        ["<|im_start|>", "<|im_end|>"],
        "<|im_start|>assistant",
        "<|im_end|>",
    ),
    "llama3": (
        {
            "user": "<|start_header_id|>user<|end_header_id|>\n\n@<|eot_id|>",
            "assistant": "<|start_header_id|>assistant<|end_header_id|>\n\n@<|eot_id|>",
        },
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|start_header_id|>assistant<|end_header_id|>",
        "<|eot_id|>",
    ),
    "mistral": (
        {"user": "[INST]@[/INST]", "assistant": "@</s>"},
        ["[INST]", "[/INST]", "</s>"],
        "[/INST]",
        "</s>",
    ),
    "gemma": (
        {
            "user": "<start_of_turn>user\n@<end_of_turn>\n",
            "assistant": "<start_of_turn>model\n@<end_of_turn>\n",
        },
        ["<start_of_turn>", "<end_of_turn>"],
        "<start_of_turn>model",
        "<end_of_turn>",
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_the_frame_is_read_off_the_template(name: str) -> None:
    parts, special, opener, closer = FRAMES[name]
    tokenizer = Template(parts, special)
    turns = Turns.from_tokenizer(tokenizer)
    assert turns is not None
    assert list(turns.opener) == tokenizer.encode(opener)
    assert [turns.closer] == tokenizer.encode(closer)
    text = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "ab"},
            {"role": "assistant", "content": "cd"},
            {"role": "user", "content": "ef"},
            {"role": "assistant", "content": "gh"},
        ],
        tokenize=False,
    )
    ids = tokenizer.encode(text)
    said = ["".join(chr(i) for i in ids[a:b] if i < 1000).strip() for a, b in turns.spans(ids)]
    assert said == ["cd", "gh"]


@pytest.mark.parametrize(
    "parts",
    [
        {"user": "USER: @\n", "assistant": "ASSISTANT: @\n"},  # nothing special frames it
        {"user": "@", "assistant": "!"},  # the words are not there
    ],
)
def test_a_template_without_a_frame_has_no_turns(parts: dict[str, str]) -> None:
    assert Turns.from_tokenizer(Template(parts, [])) is None


def test_a_tokenizer_without_a_template_has_no_turns() -> None:
    assert Turns.from_tokenizer(object()) is None


def test_spans() -> None:
    x = 7
    assert TURNS.spans([x, *OPEN, x, x, CLOSE, x, *OPEN, x]) == [(3, 5), (9, 10)]
    assert TURNS.spans([x, *OPEN]) == [(3, 3)]
    assert TURNS.spans([x, OPEN[0], x, CLOSE]) == []
    assert TURNS.spans([]) == []
    assert TURNS.spans([*OPEN, x, *OPEN, x, CLOSE]) == [(2, 6)]  # an assistant that writes one


def block() -> list[int]:
    one = [DIALECT[Tag.OUTLINE], WORD, DIALECT[Tag.END_OUTLINE]]
    goal = [DIALECT[Tag.PARALLEL], DIALECT[Tag.GOAL], *one, *one, DIALECT[Tag.END_GOAL]]
    paths = 2 * [DIALECT[Tag.PATH], WORD, DIALECT[Tag.END_PATH]]
    return [*goal, *paths, DIALECT[Tag.CONCLUSION], WORD]


def framed() -> Dialect:
    fields = {name: getattr(DIALECT, name) for name in DIALECT.__dataclass_fields__}
    fields.pop("tag_of")
    return Dialect(**{**fields, "turns": TURNS})


def test_only_an_assistants_blocks_are_blocks() -> None:
    dialect = framed()
    user, said = [WORD, *block(), WORD], [WORD, *block(), WORD]
    ids = [*user, *OPEN, *said, CLOSE, *user]
    trace = parse(ids, dialect)
    assert [b.start for b in trace.blocks] == [len(user) + len(OPEN) + 1]
    assert trace.well_formed or {issue.code for issue in trace.issues} <= {
        "unclosed",
        "goal_gap",
    } | {issue.code for issue in parse(said, DIALECT).issues}


def test_a_text_without_turns_is_structure_throughout() -> None:
    assert len(parse([WORD, *block()], framed()).blocks) == 1


def test_spans_may_be_given() -> None:
    ids = [*block(), *block()]
    half = len(block())
    assert len(parse(ids, DIALECT, spans=[(half, len(ids))]).blocks) == 1
    assert len(parse(ids, DIALECT, spans=[]).blocks) == 0
    assert list(tag_offsets(ids, DIALECT, [(0, 1)])) == [0]


def test_bounds_may_change_at_an_offset() -> None:
    from sglang_multiverse.sequencer import Limits

    ids, none = [*block(), *block()], Limits(max_branches=0)
    half = len(block())
    assert len(parse(ids, DIALECT, limits=none, earlier=(half, Limits())).blocks) == 1
    assert len(parse(ids, DIALECT, limits=Limits(), earlier=(half, none)).blocks) == 1
    assert len(parse(ids, DIALECT, limits=Limits()).blocks) == 2
