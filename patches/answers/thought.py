"""The thought of an answer: told apart from the rest in text, and counted in tokens.

A thought is what stands from the first ``<Think>`` to the first ``</Think>`` after it, whatever it
holds: blocks and paths too, in canonical order. No path of a fork holds a ``</Think>``: the engine
ends the path there. Where the prompt has opened the thought, it begins with the answer.

:class:`ThoughtDetector` fills the interface of SGLang's reasoning parsers
(``BaseReasoningFormatDetector`` in ``parser/reasoning_parser.py``), which take any answer for a
thought once grammars are to wait for one. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from sglang.srt.parser.reasoning_parser import BaseReasoningFormatDetector, StreamingParseResult

from ...dialect import MULTIVERSE, Dialect, Tag
from .parsers import prefilled


class Part(Enum):
    """Where in an answer one stands."""

    BEFORE = 0
    THOUGHT = 1
    AFTER = 2


class ThoughtDetector(BaseReasoningFormatDetector):  # type: ignore[misc]
    """Splits the text of an answer; ``<Think>``, both parts and ``</Think>`` put together are the
    text again, for an answer that begins with its thought.

    Args:
        stream_reasoning: False holds the thought back until it has ended.
        force_reasoning: SGLang sets it where grammars are to wait for the thought, which says
            nothing about this answer; ignored.
        previous_content: the assistant's message to be continued.
        force_nonempty_content: an answer without text outside its thought gets the thought there.
        tokenizer: tells whether the chat template opens the thought.
    """

    def __init__(
        self,
        stream_reasoning: bool = True,
        force_reasoning: bool = False,
        continue_final_message: bool = False,
        previous_content: str = "",
        force_nonempty_content: bool = False,
        tokenizer: Any = None,
    ):
        super().__init__(
            MULTIVERSE[Tag.THINK],
            MULTIVERSE[Tag.END_THINK],
            stream_reasoning=stream_reasoning,
            continue_final_message=continue_final_message,
            previous_content=previous_content,
            reasoning_default="always",
            force_nonempty_content=force_nonempty_content,
        )
        if continue_final_message:
            start = previous_content.rfind(self.think_start_token)
            opened = start > previous_content.rfind(self.think_end_token)
        else:
            opened = tokenizer is not None and prefilled(tokenizer)
        self._part = Part.THOUGHT if opened else Part.BEFORE
        self._in_reasoning = opened
        self._held: list[str] = []
        self._content = False

    def get_self_opened_think_start_token_ids(self, tokenizer: Any) -> list[int]:
        """The model opens its thought itself."""
        ids: list[int] = tokenizer.encode(self.think_start_token, add_special_tokens=False)
        return ids

    def detect_and_parse(self, text: str) -> StreamingParseResult:
        """Split a whole answer."""
        parts = [self.parse_streaming_increment(text), self.finish()]
        return StreamingParseResult(
            normal_text="".join(part.normal_text for part in parts),
            reasoning_text="".join(part.reasoning_text for part in parts),
        )

    def parse_streaming_increment(self, new_text: str) -> StreamingParseResult:
        """What the next piece of text adds to either part."""
        self._buffer += new_text
        content: list[str] = []
        thought: list[str] = []
        while self._part is not Part.AFTER:
            inside = self._part is Part.THOUGHT
            tag = self.think_end_token if inside else self.think_start_token
            found, rest = self._upto(tag)
            (thought if inside else content).append(found)
            if not rest:
                break
            self._part = Part.AFTER if inside else Part.THOUGHT
        else:
            content.append(self._buffer)
            self._buffer = ""
        self._in_reasoning = self._part is Part.THOUGHT
        return self._result("".join(content), "".join(thought), ended=False)

    def finish(self) -> StreamingParseResult:
        """The answer has ended: what was held back, as a tag might have followed."""
        rest, self._buffer = self._buffer, ""
        inside = self._part is Part.THOUGHT
        return self._result("" if inside else rest, rest if inside else "", ended=True)

    def _upto(self, tag: str) -> tuple[str, bool]:
        """Take the buffer's text before ``tag``, and the tag; or all that cannot be part of it."""
        at = self._buffer.find(tag)
        if at >= 0:
            text, self._buffer = self._buffer[:at], self._buffer[at + len(tag) :]
            return text, True
        keep = len(self._buffer) - self._ends_with_partial_token(self._buffer, tag)
        text, self._buffer = self._buffer[:keep], self._buffer[keep:]
        return text, False

    def _result(self, content: str, thought: str, *, ended: bool) -> StreamingParseResult:
        self._content = self._content or bool(content)
        if self.stream_reasoning and not self._force_nonempty_content:
            return StreamingParseResult(normal_text=content, reasoning_text=thought)
        self._held.append(thought)
        if not (ended or self._part is Part.AFTER) or (
            self._force_nonempty_content and not (ended or self._content)
        ):
            return StreamingParseResult(normal_text=content)
        thought = "".join(self._held)
        self._held.clear()
        if self._force_nonempty_content and not self._content:
            return StreamingParseResult(normal_text=thought)
        return StreamingParseResult(normal_text=content, reasoning_text=thought)


def opened_by(prompt: Sequence[int], dialect: Dialect) -> bool:
    """Whether ``prompt`` ends inside a thought: of the assistant's turn that it ends in, or of all
    of it where no chat template frames turns."""
    start = 0
    if dialect.turns is not None:
        spans = dialect.turns.spans(prompt)
        if spans:
            start, end = spans[-1]
            if end != len(prompt):
                return False
    think, end_think = dialect[Tag.THINK], dialect[Tag.END_THINK]
    for token in reversed(prompt[start:]):
        if token in (think, end_think):
            return bool(token == think)
    return False


class Count:
    """Counts the tokens of an answer's thought, its two tags included.

    Attributes:
        tokens: counted so far.
        seen: tokens of the answer looked at.
    """

    __slots__ = ("_part", "seen", "tokens")

    def __init__(self, *, opened: bool):
        self._part = Part.THOUGHT if opened else Part.BEFORE
        self.seen = 0
        self.tokens = 0

    def take(self, ids: Sequence[int], dialect: Dialect) -> int:
        """Count on through ``ids``, the whole answer so far, in canonical order."""
        new = ids[self.seen :]
        self.seen += len(new)
        if self._part is Part.AFTER:
            return self.tokens
        think, end_think = dialect[Tag.THINK], dialect[Tag.END_THINK]
        for token in new:
            if self._part is Part.BEFORE and token == think:
                self._part = Part.THOUGHT
            if self._part is Part.THOUGHT:
                self.tokens += 1
                if token == end_think:
                    self._part = Part.AFTER
                    break
        return self.tokens
