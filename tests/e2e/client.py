"""What the tests ask a server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sglang_multiverse.server import Server, ServerError

from .script import Forced


class Client:
    def __init__(self, server: Server):
        self.server = server
        self._weights: Path | None = None

    def use(self, folder: Path) -> None:
        """Serve the weights of ``folder``; the model's shape stays."""
        if folder != self._weights:
            self.forget()  # an update's own flush does not wait for the scheduler to be idle
            body = {"model_path": str(folder), "flush_cache": True}
            done = self.server.request("/update_weights_from_disk", body)
            assert done["success"], done
            self._weights = folder

    def forget(self) -> None:
        """Empty the prefix cache: a prompt computed from a cached prefix rounds otherwise.

        An answer comes before the scheduler is idle, so the flush waits for that.
        """
        self.server.request("/flush_cache?timeout=30", {}, raw=True)

    @contextlib.contextmanager
    def paused(self, mode: str) -> Iterator[None]:
        """Generation paused; it goes on however the block ends, for the tests that come after."""
        self.server.request("/pause_generation", {"mode": mode}, raw=True)
        try:
            yield
        finally:
            self.server.request("/continue_generation", {}, raw=True)

    def restart(self) -> None:
        """Start again from nothing, with the weights it was started with."""
        self.server.stop()
        self.server.__enter__()
        self._weights = None

    def generate(
        self, input_ids: Sequence[int] | None = None, *, text: str | None = None, **body: Any
    ) -> dict[str, Any]:
        """``/generate``; keyword arguments that are not its fields are sampling parameters."""
        answer: dict[str, Any] = self.server.request("/generate", _body(input_ids, text, body))
        return answer

    def stream(self, input_ids: Sequence[int], **body: Any) -> list[dict[str, Any]]:
        """Every event of a streamed ``/generate``."""
        request = {**_body(input_ids, None, body), "stream": True}
        return list(self.server.stream("/generate", request))

    def force(self, input_ids: Sequence[int], params: dict[str, Any], **body: Any) -> Any:
        """``/generate`` with the tokens decided by :class:`~.script.Forced`."""
        return self.generate(
            input_ids, custom_logit_processor=Forced.to_str(), custom_params=params, **body
        )

    def at_once(self, calls: Iterable[Any], workers: int = 20) -> list[Any]:
        """Run thunks concurrently; results in order."""
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda call: call(), calls))

    def load(self, figure: str) -> int:
        """A figure of ``/v1/loads``, summed over the replicas."""
        loads = self.server.request("/v1/loads?include=core")["loads"]
        return sum(int(load[figure]) for load in loads)

    def used_tokens(self) -> int:
        """KV tokens in use once nothing runs any more."""
        for _ in range(100):
            if self.load("num_running_reqs") + self.load("num_waiting_reqs") == 0:
                return self.load("num_used_tokens")
            time.sleep(0.1)
        raise AssertionError("requests are still running")

    def assert_sound(self) -> None:
        """The server lives, holds no KV, and none of SGLang's memory checks has spoken."""
        assert self.server.alive, self.server.last_words(60)
        assert self.used_tokens() == 0
        log = self.server.log()
        for cry in ("leak", "double free", "use-after-free", "Scheduler hit an exception"):
            assert cry not in log, cry


_FIELDS = {
    "return_logprob",
    "top_logprobs_num",
    "token_ids_logprob",
    "logprob_start_len",
    "custom_logit_processor",
    "rid",
    "return_text_in_logprobs",
    "lora_path",
    "priority",
}


def _body(ids: Sequence[int] | None, text: str | None, body: dict[str, Any]) -> dict[str, Any]:
    fields = {key: value for key, value in body.items() if key in _FIELDS}
    params = {key: value for key, value in body.items() if key not in _FIELDS}
    prompt = {"text": text} if ids is None else {"input_ids": list(ids)}
    params = {"temperature": 0, "max_new_tokens": 1200, **params}
    return {**prompt, **fields, "sampling_params": params}


__all__ = ["Client", "ServerError"]
