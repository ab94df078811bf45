"""HTTP client of a running SGLang server: sample token ids with logprobs, replace the weights."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx

#: Connections that were refused or cut are tried so often; an answer of the server never is.
ATTEMPTS = 4
FLUSH_SECONDS = 30.0

SERVE = "sglang serve --plugin multiverse --model-path DIR"


class EngineError(RuntimeError):
    """The server cannot be reached or does not do what training needs; says what to do."""


class EngineClient:
    """A running server.

    Args:
        url: such as ``http://127.0.0.1:30000``.
        timeout: seconds to wait for one answer.
        connections: requests under way at a time.
    """

    def __init__(self, url: str, *, timeout: float = 600.0, connections: int = 128):
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(timeout, connect=10.0),
            limits=httpx.Limits(max_connections=connections),
        )

    def close(self) -> None:
        self._http.close()

    def generate(
        self, input_ids: list[int], sampling_params: dict[str, Any]
    ) -> tuple[list[int], list[float], dict[str, Any]]:
        """Continue ``input_ids``; ids and logprobs are as the engine has them, of equal length.

        Returns:
            Output ids, one logprob per output id (0.0 where the engine wrote the token itself),
            and ``meta_info``.

        Raises:
            EngineError: no plugin, no usable answer, or the request was aborted.
        """
        body = {
            "input_ids": input_ids,
            "sampling_params": sampling_params,
            "return_logprob": True,
            "logprob_start_len": -1,
        }
        answer = self._call("/generate", body).json()
        ids, meta = answer["output_ids"], answer["meta_info"]
        finish = meta["finish_reason"]
        if finish["type"] == "abort":
            raise EngineError(f"{self.url} aborted a request: {finish.get('message', finish)}")
        if "multiverse_injected" not in meta:
            raise EngineError(
                f"{self.url} answered without multiverse_injected, so it cannot be told which "
                f"tokens the engine wrote: it runs without the plugin ({SERVE}), or the sampling "
                "parameters make it decode sequentially (custom_params.multiverse: false, a "
                "grammar)"
            )
        logprobs = meta["output_token_logprobs"]
        if [token for _, token, *_ in logprobs] != ids or not ids:
            raise EngineError(
                f"{self.url}: {len(ids)} output ids but {len(logprobs)} logprobs that do not all "
                "belong to them; serve with skip_tokenizer_init off and without a detokenizer "
                "of your own"
            )
        return ids, [float(value) for value, *_ in logprobs], meta

    def update_weights(self, folder: Path, version: str) -> None:
        """Serve the weights in ``folder``, a path that the server can read, and empty its cache.

        Every later answer bears ``meta_info["weight_version"] == version``.

        Raises:
            EngineError: the server refused them; its words are in the message.
        """
        body = {
            "model_path": str(folder),
            "weight_version": version,
            "flush_cache": False,
        }
        answer = self._call("/update_weights_from_disk", body, accept=(200, 400))
        said = answer.json()
        if not said.get("success"):
            raise EngineError(
                f"{self.url} refused the policy's weights: {said.get('message', said)} The server "
                f"must hold a checkpoint of the policy's own architecture and see {folder}"
            )
        # KV of the old weights. An answer may come a step before the scheduler is idle.
        flushed = self._call(f"/flush_cache?timeout={FLUSH_SECONDS:g}", {}, accept=(200, 400))
        if flushed.status_code != 200:
            raise EngineError(
                f"{self.url} has the new weights but kept KV of the old ones: {flushed.text} "
                "Other clients must not use the server while it trains"
            )

    def architectures(self) -> list[str]:
        """Classes that the served checkpoint names in its config."""
        return list(self._call("/model_info").json()["architectures"] or ())

    def share_every(self) -> int | None:
        """Tokens after which the server's paths see one another; None: at the join alone."""
        (state, *_) = self._call("/server_info").json()["internal_states"]
        told: int | None = state["multiverse"]["options"]["share_every"]
        return told

    def _call(
        self, path: str, body: dict[str, Any] | None = None, accept: tuple[int, ...] = (200,)
    ) -> httpx.Response:
        for attempt in range(ATTEMPTS):
            try:
                if body is None:
                    answer = self._http.get(path)
                else:
                    answer = self._http.post(path, json=body)
                break
            except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError) as error:
                if attempt == ATTEMPTS - 1:
                    raise EngineError(
                        f"no server answers at {self.url} ({error}); start one with `{SERVE}` "
                        "and pass its address"
                    ) from error
                time.sleep(0.5 * 2**attempt)
            except httpx.TimeoutException as error:
                raise EngineError(
                    f"{self.url}{path} did not answer within {self.timeout:g} s; send fewer "
                    "requests at a time, allow fewer tokens, or raise the timeout"
                ) from error
        if answer.status_code not in accept:
            raise EngineError(f"{self.url}{path}: HTTP {answer.status_code}: {answer.text[:2000]}")
        return answer
