"""HTTP client of a running SGLang server: sample token ids with logprobs, replace the weights."""

from __future__ import annotations

import base64
import pickle
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
from torch import Tensor

#: Connections that were refused or cut are tried so often; an answer of the server never is.
ATTEMPTS = 4
FLUSH_SECONDS = 30.0

SERVE = "sglang serve --plugin multiverse --model-path DIR"


class EngineError(RuntimeError):
    """The server cannot be reached or does not do what training needs; says what to do."""


class UnreachableError(EngineError):
    """Nothing answers at the server's address, or not any more."""


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
        answer = self._json("/generate", body)
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
        said = self._json("/update_weights_from_disk", body, accept=(200, 400))
        if not said.get("success"):
            raise EngineError(
                f"{self.url} refused the policy's weights: {_words(said)} The server must hold a "
                f"checkpoint of the policy's own architecture and see {folder}"
            )
        self.flush()

    def update_tensors(
        self, buckets: Iterable[list[tuple[str, Tensor]]], version: str, ranks: int = 1
    ) -> None:
        """Serve the tensors of ``buckets``, sent in the request's body, and empty the cache.

        Args:
            buckets: named tensors of a checkpoint, one request each; on the CPU.
            ranks: the server's tensor-parallel size; each of its processes reads a copy.

        Raises:
            EngineError: the server refused them; its weights may be those of two policies then.
        """

        def load(bucket: list[tuple[str, Tensor]]) -> None:
            # Of a view, pickle takes the whole storage.
            owned = [(name, tensor.detach().clone()) for name, tensor in bucket]
            text = base64.b64encode(pickle.dumps(owned)).decode()
            self.control(
                "/update_weights_from_tensor",
                {
                    "serialized_named_tensors": [text] * ranks,
                    "weight_version": version,
                    "flush_cache": False,
                },
            )

        self.in_session(load, buckets)

    def in_session(
        self,
        load: Callable[[list[tuple[str, Tensor]]], None],
        buckets: Iterable[list[tuple[str, Tensor]]],
    ) -> None:
        """Call ``load`` on each of ``buckets`` while the server takes weights; empty its cache."""
        if not self._begin():
            self.control("/end_weight_update", {})  # of a trainer that died in the middle
            self.control("/begin_weight_update", {})
        try:
            for bucket in buckets:
                load(bucket)
        finally:
            self.control("/end_weight_update", {})
        self.flush()

    def flush(self) -> None:
        """Forget the KV of old weights. An answer may come a step before the scheduler is idle."""
        flushed = self._call(f"/flush_cache?timeout={FLUSH_SECONDS:g}", {}, accept=(200, 400))
        if flushed.status_code != 200:
            raise EngineError(
                f"{self.url} has the new weights but kept KV of the old ones: {flushed.text} "
                "Other clients must not use the server while it trains"
            )

    def control(self, path: str, body: dict[str, Any]) -> None:
        """POST that the server answers with whether it succeeded.

        Raises:
            EngineError: it did not, or the server has no such path.
        """
        said = self._json(path, body, accept=(200, 400))
        if not said.get("success"):
            raise EngineError(f"{self.url}{path} was refused: {_words(said)}")

    def _begin(self) -> bool:
        said = self._json("/begin_weight_update", {}, accept=(200, 400))
        return bool(said.get("success"))

    def architectures(self) -> list[str]:
        """Classes that the served checkpoint names in its config."""
        return list(self._asked("/model_info", "architectures") or ())

    def model_path(self) -> str:
        """The folder or name of the served checkpoint, as the server sees it."""
        return str(self._asked("/model_info", "model_path"))

    def tensor_parallel(self) -> int:
        """Processes that hold a share of the weights each.

        Raises:
            EngineError: there are replicas or stages, which take weights from disk alone.
        """
        tp, dp, pp = (self._asked("/server_info", f"{kind}_size") for kind in ("tp", "dp", "pp"))
        if dp != 1 or pp != 1:
            raise EngineError(
                f"{self.url} runs {dp} replicas of {pp} stages, and takes weights from memory in "
                "one replica of one stage: hand them over with weights=disk"
            )
        return int(tp)

    def options(self) -> dict[str, Any]:
        """The plugin's options: ``share_every``, ``max_branches``, ``max_depth``, …

        Raises:
            EngineError: the server runs without the plugin.
        """
        (state, *_) = self._asked("/server_info", "internal_states")
        if "multiverse" not in state:
            raise EngineError(f"{self.url} runs without the plugin: {SERVE}")
        told: dict[str, Any] = state["multiverse"]["options"]
        return told

    def share_every(self) -> int | None:
        """Tokens after which the server's paths see one another; None: at the join alone."""
        told: int | None = self.options()["share_every"]
        return told

    def _asked(self, path: str, key: str) -> Any:
        answer = self._json(path)
        if not isinstance(answer, dict) or key not in answer:
            raise EngineError(f"{self.url}{path} names no {key}: no SGLang 0.5.23 ({SERVE})")
        return answer[key]

    def _json(
        self, path: str, body: dict[str, Any] | None = None, accept: tuple[int, ...] = (200,)
    ) -> Any:
        answer = self._call(path, body, accept)
        try:
            return answer.json()
        except ValueError as error:
            raise EngineError(
                f"{self.url}{path} did not answer in JSON: no SGLang server ({SERVE})"
            ) from error

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
                    raise UnreachableError(
                        f"no server answers at {self.url} ({error or type(error).__name__}); start "
                        f"one with `{SERVE}` and pass its address"
                    ) from error
                time.sleep(0.5 * 2**attempt)
            except httpx.TimeoutException as error:
                raise EngineError(
                    f"{self.url}{path} did not answer within {self.timeout:g} s; send fewer "
                    "requests at a time, allow fewer tokens, or raise the timeout"
                ) from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise EngineError(
                    f"{self.url}{path} cannot be asked ({error}); an address is http://HOST:PORT"
                ) from error
        if answer.status_code not in accept:
            raise EngineError(f"{self.url}{path}: HTTP {answer.status_code}: {_line(answer.text)}")
        return answer


def _words(said: dict[str, Any]) -> str:
    """What the server gives as its reason."""
    error = said.get("error")
    return _line(said.get("message") or (error or {}).get("message") or said)


def _line(text: object, most: int = 600) -> str:
    """``text`` on one line, cut."""
    words = " ".join(str(text).split())
    return words if len(words) <= most else words[:most] + " …"
