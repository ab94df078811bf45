"""The model ``multiverse/NAME`` of inspect-ai: any OpenAI-compatible server, asked over httpx.

inspect-ai's own OpenAI providers need a newer ``openai`` than SGLang pins, and drop the figures
that the server gives with an answer. This one keeps them: ``choices[].meta_info`` is the output's
``metadata``.
"""

from __future__ import annotations

import os
import time
from contextvars import ContextVar
from typing import Any

import httpx
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelCall,
    ModelOutput,
    ModelUsage,
    StopReason,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from ..text import encodable

#: Names the server where neither ``base_url`` nor ``--model-base-url`` does, and its key.
URL_VARIABLE, KEY_VARIABLE = "MULTIVERSE_BASE_URL", "MULTIVERSE_API_KEY"
DEFAULT_URL = "http://127.0.0.1:30000"

#: Of a finish reason of the server.
_STOPS: dict[str, StopReason] = {
    "stop": "stop",
    "length": "max_tokens",
    "content_filter": "content_filter",
}
#: The server will not take this request, however often it is sent.
_REFUSED = frozenset([400, 413, 422])
#: It may later: busy, out of memory, restarting.
_LATER = frozenset([408, 425, 429, 500, 502, 503, 504])
#: What is asked for beyond OpenAI's interface.
_OURS = ("return_meta_info", "separate_reasoning", "custom_params")
#: Where each request sent in this context is noted, for who wants to count them.
sent: ContextVar[list[str] | None] = ContextVar("sent", default=None)


class Multiverse(ModelAPI):
    """Requests to ``/v1/chat/completions`` of one server.

    Args:
        model_name: the served model's name, as ``/v1/models`` gives it.
        base_url: of the server, with or without ``/v1``.
        transport: for tests.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  as the base class has it
        transport: httpx.AsyncBaseTransport | None = None,
        **model_args: Any,
    ):
        base_url = base_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
        super().__init__(model_name, base_url, api_key, [KEY_VARIABLE], config)
        self.api_key = self.api_key or os.environ.get(KEY_VARIABLE)
        if model_args:
            raise ValueError(f"unknown model argument: {', '.join(model_args)}")
        self.url = base_url.rstrip("/").removesuffix("/v1")
        self._plain = False
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        self._client = httpx.AsyncClient(
            headers=headers,
            transport=transport,
            timeout=httpx.Timeout(None, connect=30.0),  # an answer may take an hour
            limits=httpx.Limits(max_connections=None),
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    def connection_key(self) -> str:
        return self.url

    def should_retry(self, ex: Exception) -> bool:
        if isinstance(ex, httpx.HTTPStatusError):
            return ex.response.status_code in _LATER
        return isinstance(ex, httpx.TransportError)

    def is_auth_failure(self, ex: Exception) -> bool:
        return isinstance(ex, httpx.HTTPStatusError) and ex.response.status_code in (401, 403)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput | tuple[ModelOutput | Exception, ModelCall]:
        """Ask once. A request that the server refuses is an output with ``error`` and no text;
        one that it may take later raises, and inspect-ai sends it again."""
        body = request(self.model_name, input, config)
        noted = sent.get()
        if noted is not None:
            noted.append(self.url)
        begun = time.perf_counter()
        if self._plain:
            body = plain(body) or body
        reply = await self._client.post(f"{self.url}/v1/chat/completions", json=body)
        if reply.status_code in _REFUSED and any(name in reply.text for name in _OURS):
            without = plain(body)  # a server that takes no field that it does not know
            if without is not None:
                body, begun = without, time.perf_counter()
                reply = await self._client.post(f"{self.url}/v1/chat/completions", json=body)
                self._plain = reply.is_success
        seconds = time.perf_counter() - begun
        if reply.status_code in _REFUSED:
            said = _message(reply)
            nothing = ChatCompletionChoice(message=ChatMessageAssistant(content=""))
            output = ModelOutput(
                model=self.model_name,
                choices=[nothing],
                error=f"HTTP {reply.status_code}: {said}",
                time=seconds,
            )
            return output, ModelCall.create(body, {"error": said}, time=seconds)
        if not reply.is_success:
            said = f"HTTP {reply.status_code}: {_message(reply)}"
            raise httpx.HTTPStatusError(said, request=reply.request, response=reply)
        answer = reply.json()
        return read(answer, seconds), ModelCall.create(body, answer, time=seconds)


def request(model: str, messages: list[ChatMessage], config: GenerateConfig) -> dict[str, Any]:
    """The body of a request. The text comes whole, thought and tags included."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": one.role, "content": one.text} for one in messages],
        "return_meta_info": True,
        "separate_reasoning": False,
    }
    named = {
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "seed": config.seed,
        "stop": config.stop_seqs,
        "frequency_penalty": config.frequency_penalty,
        "presence_penalty": config.presence_penalty,
    }
    body |= {name: value for name, value in named.items() if value is not None}
    return body | (config.extra_body or {})


def plain(body: dict[str, Any]) -> dict[str, Any] | None:
    """``body`` in OpenAI's own fields alone; None where it has no others, or one that changes the
    answer: a budget of the critical path."""
    ours = {name for name in _OURS if name in body}
    if not ours or body.get("custom_params") not in (None, {"multiverse": False}):
        return None
    return {name: value for name, value in body.items() if name not in ours}


def read(answer: dict[str, Any], seconds: float) -> ModelOutput:
    """The output of a chat completion, with the server's figures as its metadata.

    Raises:
        ValueError: it is no chat completion.
    """
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        text = _text(message.get("content"))
        thought = _text(message.get("reasoning_content"))
        reason = choice.get("finish_reason")
        meta = choice.get("meta_info")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"the server's answer is no chat completion: {error!r}") from error
    if thought:  # a server that parts them all the same
        text = f"<Think>{thought}</Think>{text}"
    usage = answer.get("usage")
    prompt, completion = (
        value if isinstance(usage, dict) and isinstance(value := usage.get(name), int) else 0
        for name in ("prompt_tokens", "completion_tokens")
    )
    return ModelOutput(
        model=str(answer.get("model") or ""),
        choices=[
            ChatCompletionChoice(
                message=ChatMessageAssistant(content=text, source="generate"),
                stop_reason=_STOPS.get(str(reason), "unknown"),
            )
        ],
        usage=ModelUsage(
            input_tokens=prompt, output_tokens=completion, total_tokens=prompt + completion
        ),
        time=seconds,
        metadata=meta if isinstance(meta, dict) else {},
        response_id=str(answer.get("id") or ""),
    )


def _text(content: Any) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if isinstance(part, dict))
    if content is None:
        return ""
    if not isinstance(content, str):
        raise TypeError(f"content is {type(content).__name__}")
    return encodable(content)


def _message(reply: httpx.Response) -> str:
    try:
        said = reply.json()
        error = said.get("error", said)
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        return reply.text[:500]
