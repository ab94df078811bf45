"""Tool calls spread over an answer: no text is lost, streamed or not."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest

pytest.importorskip("sglang", reason="the serve extra is not installed")
os.environ.setdefault("SGLANG_PLATFORM", "torch_cpu")

from sglang.srt.entrypoints.openai.protocol import Function, Tool
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from sglang.srt.function_call.qwen25_detector import Qwen25Detector

from sglang_multiverse.patches.answers import tool_calls


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test installs goes with it."""
    enum = {**FunctionCallParser.ToolCallParserEnum}
    monkeypatch.setattr(FunctionCallParser, "ToolCallParserEnum", enum)


TOOLS = [
    Tool(type="function", function=Function(name=name, parameters={"type": "object"}))
    for name in ("look", "add")
]


def call(name: str, **arguments: Any) -> str:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def calls_of(found: list[Any]) -> list[tuple[str, Any]]:
    return [(one.name, json.loads(one.parameters)) for one in found]


def stream_calls(name: str, text: str, seed: int) -> tuple[str, list[Any]]:
    rng, at = random.Random(seed), 0
    made = FunctionCallParser(TOOLS, name)
    said, found = "", []
    while at < len(text):
        size = rng.choice([1, 2, 5, 30, 200])
        more, new = made.parse_stream_chunk(text[at : at + size])
        said, found, at = said + more, found + new, at + size
    more, new = made.parse_stream_end()
    return said + more, found + new


PER_PATH = f"""<Parallel>
<Path>
1: {call("look", at="x")}
</Path>
<Path>
2: so {call("add", a=1, b=[2])}
</Path>
<Conclusion>
both
</Conclusion>
</Parallel>
Done."""
LEFT = f"""<Parallel>
<Path>
1:{" "}
</Path>
<Path>
2: so{" "}
</Path>
<Conclusion>
both
</Conclusion>
</Parallel>
Done."""
CALLS = {
    PER_PATH: (
        LEFT,
        [("look", {"at": "x"}), ("add", {"a": 1, "b": [2]})],
    ),
    f"{call('look')}\n{call('add', a=1)}\n": ("", [("look", {}), ("add", {"a": 1})]),
    "no call\n": ("no call\n", []),
    " \n": (" \n", []),
    f"x {call('unknown', a=1)} y {call('look')}": (
        f"x {call('unknown', a=1)} y ",
        [("look", {})],
    ),
    'cut <tool_call>\n{"name": "lo': ('cut <tool_call>\n{"name": "lo', []),
    f"bad <tool_call>{{]</tool_call> {call('look')}": (
        "bad <tool_call>{]</tool_call> ",
        [("look", {})],
    ),
    f"{call('look', at='</tool_call>', so=False)} ok": (
        " ok",
        [("look", {"at": "</tool_call>", "so": False})],
    ),
    "a <tool_ca": ("a <tool_ca", []),
    f"<tool_call> {call('look', at='né')}": ("<tool_call> ", [("look", {"at": "né"})]),
    f"<tool_call>{json.dumps([{'name': 'look'}, {'name': 'add'}])}</tool_call>!": (
        "!",
        [("look", {}), ("add", {})],
    ),
}


@pytest.mark.parametrize("name", tool_calls.PARSERS)
@pytest.mark.parametrize("text", CALLS)
def test_no_text_around_calls_is_lost(name: str, text: str) -> None:
    tool_calls.install()
    said, expected = CALLS[text]
    whole, found = FunctionCallParser(TOOLS, name).parse_non_stream(text)
    assert (whole, calls_of(found)) == (said, expected)
    for seed in range(40):
        spoken, found = stream_calls(name, text, seed)
        assert (spoken, calls_of(found)) == (said, expected)
        assert [one.tool_index for one in found] == list(range(len(found)))


def test_what_sglangs_own_parser_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why these parsers replace it: when this fails, SGLang has changed and they may go."""
    monkeypatch.setitem(FunctionCallParser.ToolCallParserEnum, "qwen25", Qwen25Detector)
    whole, found = FunctionCallParser(TOOLS, "qwen25").parse_non_stream(PER_PATH)
    assert whole == "<Parallel>\n<Path>\n1:"
    assert len(found) == 2
    spoken, _ = stream_calls("qwen25", PER_PATH, 0)
    assert spoken != CALLS[PER_PATH][0]
