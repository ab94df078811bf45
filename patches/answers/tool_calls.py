"""Tool calls spread over an answer: the calls come out, and all other text stays.

Replaces the parsers ``qwen``, ``qwen25`` and ``hermes`` in
``FunctionCallParser.ToolCallParserEnum``, which read calls in ``<tool_call>`` tags. SGLang's own
give up the text after an answer's first call, and, streamed, what stands between two calls that
are not neighbours: of an answer whose paths each hold a call, most is lost. Verified on SGLang
0.5.23.
"""

from __future__ import annotations

import json
from typing import Any

from sglang.srt.function_call.base_format_detector import BaseFormatDetector
from sglang.srt.function_call.core_types import StreamingParseResult, ToolCallItem
from sglang.srt.function_call.hermes_detector import HermesDetector
from sglang.srt.function_call.qwen25_detector import Qwen25Detector

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_LONGEST = len("-Infinity") + 1  # no piece of JSON but a string is longer, so none is cut earlier


class EveryCall(BaseFormatDetector):  # type: ignore[misc]
    """Takes every ``<tool_call>`` with a JSON call of a known tool out of a text, in text order.

    A call appears when it is complete. What is no such call stays text as it was written: a cut or
    malformed one, one of an unknown tool, and everything outside. Text of nothing but white space
    beside calls is dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending = ""
        self._white = ""
        self._spoke = False

    def has_tool_call(self, text: str) -> bool:
        return _OPEN in text

    def detect_and_parse(self, text: str, tools: list[Any]) -> StreamingParseResult:
        parts = [self.parse_streaming_increment(text, tools), self.finish(tools)]
        return StreamingParseResult(
            normal_text="".join(part.normal_text for part in parts),
            calls=[call for part in parts for call in part.calls],
        )

    def parse_streaming_increment(self, new_text: str, tools: list[Any]) -> StreamingParseResult:
        self._pending += new_text
        return self._parse(tools, ended=False)

    def finish(self, tools: list[Any]) -> StreamingParseResult:
        """The answer has ended: an unfinished call is text."""
        result = self._parse(tools, ended=True)
        if self._white and not self.prev_tool_call_arr:
            result.normal_text += self._white
        self._white = ""
        return result

    def _parse(self, tools: list[Any], *, ended: bool) -> StreamingParseResult:
        text: list[str] = []
        calls: list[ToolCallItem] = []
        while self._pending:
            at = self._pending.find(_OPEN)
            if at < 0:
                keep = 0 if ended else self._ends_with_partial_token(self._pending, _OPEN)
                at = len(self._pending) - keep
                text.append(self._pending[:at])
                self._pending = self._pending[at:]
                break
            text.append(self._pending[:at])
            self._pending = self._pending[at:]
            length, found = self._call(tools, ended=ended)
            if length == 0:
                break
            if found:
                calls += found
            else:
                text.append(self._pending[:length])
            self._pending = self._pending[length:]
        return StreamingParseResult(normal_text=self._said("".join(text)), calls=calls)

    def _call(self, tools: list[Any], *, ended: bool) -> tuple[int, list[ToolCallItem]]:
        """Read the call that the pending text begins with.

        Returns:
            How much of the text it takes, 0 while more must come; and the calls, none where it is
            only text.
        """
        text = self._pending
        close = text.find(_CLOSE)
        if close < 0:
            return (len(_OPEN) if ended else 0), []
        begin = len(_OPEN) + len(text[len(_OPEN) :]) - len(text[len(_OPEN) :].lstrip())
        try:
            action, end = json.JSONDecoder().raw_decode(text, begin)
        except json.JSONDecodeError as error:
            # The closing tag may stand in a string, and the JSON may go on after it.
            cut = error.msg.startswith("Unterminated") or len(text) - error.pos < _LONGEST
            return (0 if cut and not ended else len(_OPEN)), []
        tail = text[end:].lstrip()
        if not tail.startswith(_CLOSE):
            wait = not ended and _CLOSE.startswith(tail)
            return (0 if wait else len(_OPEN)), []
        actions = action if isinstance(action, list) else [action]
        if not all(isinstance(one, dict) for one in actions):
            return len(_OPEN), []
        found = self.parse_base_json(actions, tools)
        if len(found) < len(actions):
            return len(_OPEN), []  # an unknown tool
        return len(text) - len(tail) + len(_CLOSE), [self._numbered(call) for call in found]

    def _numbered(self, call: ToolCallItem) -> ToolCallItem:
        """Give a call its place in the answer, and keep what SGLang's serving looks at."""
        call.tool_index = len(self.prev_tool_call_arr)
        self.prev_tool_call_arr.append(
            {"name": call.name, "arguments": json.loads(call.parameters)}
        )
        self.streamed_args_for_tool.append(call.parameters)
        self.current_tool_id = call.tool_index
        return call

    def _said(self, text: str) -> str:
        """Hold white space back until something else is said."""
        if self._spoke:
            return text
        text = self._white + text
        if text.strip():
            self._spoke, self._white = True, ""
            return text
        self._white = text
        return ""


class QwenCalls(EveryCall, Qwen25Detector):  # type: ignore[misc]
    """``qwen`` and ``qwen25``."""


class HermesCalls(EveryCall, HermesDetector):  # type: ignore[misc]
    """``hermes``."""


PARSERS = {"qwen": QwenCalls, "qwen25": QwenCalls, "hermes": HermesCalls}


def install() -> None:
    """Put these parsers in the place of SGLang's, in this process."""
    from sglang.srt.function_call.function_call_parser import FunctionCallParser

    FunctionCallParser.ToolCallParserEnum.update(PARSERS)
