"""How a policy's weights reach the server: through its memory, or through a folder.

=============== ==================================================================================
``memory``      in the bodies of HTTP requests (``/update_weights_from_tensor``)
``distributed`` broadcast in a process group with the server's processes, NCCL between GPUs and
                gloo elsewhere (``/update_weights_from_distributed``)
``disk``        a folder that both see (``/update_weights_from_disk``)
``auto``        ``memory`` up to :data:`AUTO_BYTES` of weights, ``disk`` beyond, and from the first
                refusal on
=============== ==================================================================================
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import (
    Backend,
    PrefixStore,
    _new_process_group_helper,
    _world,
)
from torch.distributed.tensor import DTensor

from ...server import free_port
from .engine import EngineClient, EngineError, UnreachableError
from .weights import Named, in_buckets, save_policy, whole_weights

Way = Literal["auto", "memory", "distributed", "disk"]
WAYS: tuple[str, ...] = get_args(Way)
#: Weights over which ``auto`` is ``disk``: as text in JSON, SGLang takes some 12 s for a GB.
AUTO_BYTES = 256 << 20
#: Bytes of one request's body; SGLang takes several times as long for larger ones.
BODY = 16 << 20


class Handover:
    """Gives one server the weights of a policy, again and again.

    Args:
        way: see the module.
        folder: for ``disk``, where it puts them; a temporary folder by default.
        address: for ``distributed``, this machine's, as the server reaches it.

    Attributes:
        seconds: what each update took, saving and emptying of the cache included.
        used: the way of the last one.
    """

    def __init__(
        self,
        client: EngineClient,
        way: str = "auto",
        *,
        folder: str | Path | None = None,
        address: str = "127.0.0.1",
    ):
        if way not in WAYS:
            raise ValueError(f"weights={way!r}: one of {', '.join(WAYS)}")
        self.client = client
        self.way = way
        self.folder = folder
        self.address = address
        self.seconds: list[float] = []
        self.used: str | None = None
        self._group: WeightGroup | None = None

    def give(self, policy: Any, version: str) -> None:
        """Serve the weights of ``policy``; later answers bear ``version``.

        Under FSDP2 the main process calls this, and the others :func:`attend`.

        Raises:
            EngineError: the server refused them, or is not to be reached.
            ShardedError: they cannot be gathered.
        """
        begun = time.monotonic()
        weights = iter(whole_weights(policy))
        try:
            self._give(policy, weights, version)
        except UnreachableError as error:
            if self.seconds:
                raise
            raise UnreachableError(
                f"{self.client.url} went away while it took the policy's weights: it serves a "
                "checkpoint of other sizes, or its memory ran out; its log says which. Serve the "
                "checkpoint that training starts from"
            ) from error
        finally:
            for _ in weights:  # gathered in step with the other processes, whatever became of us
                pass
        self.seconds.append(time.monotonic() - begun)

    def close(self) -> None:
        """Leave the process group of ``distributed``, if there is one."""
        if self._group is not None:
            self._group.leave()
            self._group = None

    def _give(self, policy: Any, weights: Iterable[Named], version: str) -> None:
        self.used = self.way
        if self.way == "auto":
            size = sum(one.numel() * one.element_size() for one in policy.parameters())
            self.used = "memory" if size <= AUTO_BYTES else "disk"
        if self.used == "disk":
            self._by_disk(policy, weights, version)
            return
        sent = _Counted(weights)
        try:
            if self.used == "memory":
                on_cpu = ((name, weight.cpu()) for name, weight in sent)
                ranks = self.client.tensor_parallel()
                self.client.update_tensors(in_buckets(on_cpu, BODY), version, ranks)
            else:
                self._by_group(sent, version)
        except UnreachableError:
            raise
        except EngineError as error:
            # What was gathered and sent is gone; a policy in one process is read once more.
            if self.way != "auto" or (sent.count and _sharded(policy)):
                raise EngineError(f"{error} (weights={self.used}; disk is another way)") from error
            warnings.warn(f"{error}; weights go over by disk from here on", stacklevel=2)
            self.way = self.used = "disk"
            again = weights if not sent.count else whole_weights(policy)
            self._by_disk(policy, again, version)

    def _by_disk(self, policy: Any, weights: Iterable[Named], version: str) -> None:
        with tempfile.TemporaryDirectory(prefix="multiverse-policy-", dir=self.folder) as folder:
            save_policy(policy, Path(folder), weights)
            self.client.update_weights(Path(folder), version)

    def _by_group(self, weights: Iterable[Named], version: str) -> None:
        if self._group is None:
            self._group = WeightGroup(self.client, self.address)
        group = self._group

        def load(bucket: list[Named]) -> None:
            group.broadcast(bucket, version)

        self.client.in_session(load, in_buckets(weights))


def attend(policy: Any) -> None:
    """What the other processes do while the main one gives the weights of a sharded policy."""
    if _sharded(policy):
        for _ in whole_weights(policy):
            pass


class WeightGroup:
    """A process group of this process, rank 0, and those of the server.

    Raises:
        EngineError: the server did not join.
    """

    def __init__(self, client: EngineClient, address: str):
        self.client = client
        self.size = 1 + client.tensor_parallel()
        self.port = free_port()
        self.name = f"multiverse-{self.port}"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.backend = "nccl" if self.device.type == "cuda" else "gloo"
        self.patience = timedelta(seconds=min(client.timeout, 120.0))
        joining = _Request(
            client,
            "/init_weights_update_group",
            {
                "master_address": address,
                "master_port": self.port,
                "rank_offset": 1,
                "world_size": self.size,
                "group_name": self.name,
                "backend": self.backend,
            },
        )
        store = dist.TCPStore(
            "0.0.0.0", self.port, self.size, is_master=True, timeout=self.patience,
            wait_for_workers=False,
        )  # fmt: skip
        # The default group may be the trainer's own, or none; torch has no public call for a
        # group beside it whose members are no members of that. SGLang's side does the same.
        try:
            self.group, _ = _new_process_group_helper(
                self.size,
                0,
                [],
                Backend(self.backend),
                PrefixStore(self.name, store),
                group_name=self.name,
                backend_options=None,
                timeout=self.patience,
            )
        except RuntimeError as error:
            joining.raise_failure()
            raise EngineError(
                f"{client.url} did not join a {self.backend} group at {address}:{self.port} "
                f"({str(error).splitlines()[0]}); set weights_address to this machine's address"
            ) from error
        _world.pg_group_ranks[self.group] = {rank: rank for rank in range(self.size)}
        joining.wait()

    def broadcast(self, bucket: list[Named], version: str) -> None:
        """Send ``bucket`` to every process of the server, which loads it."""
        owned = [(name, weight.detach().to(self.device).contiguous()) for name, weight in bucket]
        request = _Request(
            self.client,
            "/update_weights_from_distributed",
            {
                "names": [name for name, _ in owned],
                "dtypes": [str(weight.dtype).removeprefix("torch.") for _, weight in owned],
                "shapes": [list(weight.shape) for _, weight in owned],
                "group_name": self.name,
                "weight_version": version,
                "flush_cache": False,
            },
        )
        for _, weight in owned:
            work = dist.broadcast(weight, src=0, group=self.group, async_op=True)
            while not work.is_completed():
                request.raise_failure()
                time.sleep(0.001)
            work.wait()
        request.wait()

    def leave(self) -> None:
        """End the group on both sides; a server that is gone has ended its own."""
        with contextlib.suppress(EngineError):
            self.client.control("/destroy_weights_update_group", {"group_name": self.name})
        dist.destroy_process_group(self.group)


class _Request:
    """A control request under way: its answer comes when the other side of a collective is done."""

    def __init__(self, client: EngineClient, path: str, body: dict[str, Any]):
        self._failure: EngineError | None = None
        self._thread = threading.Thread(target=self._ask, args=(client, path, body), daemon=True)
        self._thread.start()

    def _ask(self, client: EngineClient, path: str, body: dict[str, Any]) -> None:
        try:
            client.control(path, body)
        except EngineError as error:
            self._failure = error

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def wait(self) -> None:
        self._thread.join()
        self.raise_failure()


class _Counted:
    """An iterable that knows whether it was begun."""

    def __init__(self, items: Iterable[Named]):
        self._items = items
        self.count = 0

    def __iter__(self) -> Any:
        for item in self._items:
            self.count += 1
            yield item


def _sharded(policy: Any) -> bool:
    return any(isinstance(weight, DTensor) for weight in policy.parameters())
