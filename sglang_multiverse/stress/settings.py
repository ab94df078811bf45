"""The servers that are attacked: pool sizes, overlap scheduling, chunks, limits of forks, the
attention backend, and paths that share."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ..server import Server

#: SGLang's memory checks, all of them.
CHECKS = {
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1",
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE": "1",
    "SGLANG_CHECK_KV_PAGE_INVARIANTS": "1",
    "OMP_NUM_THREADS": "1",
}
FLAGS = ("--dtype", "float32", "--enable-custom-logit-processor", "--random-seed", "1")
#: KV tokens. A dozen requests overfill the smaller ones.
POOLS = (2200, 20_000, 900, 6000, 1400)


@dataclass(frozen=True)
class Setting:
    """Flags of one server to start."""

    flags: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.flags)

    def serve(
        self, model: Path, *, plugin: bool = True, on_wait: Callable[[float], None] | None = None
    ) -> AbstractContextManager[Server]:
        flags = [*FLAGS, *(f for f in self.flags if plugin or "multiverse" not in f)]
        return Server(model, flags=flags, env=CHECKS, plugin=plugin, on_wait=on_wait)


def setting(seed: int, number: int) -> Setting:
    """Server ``number`` of ``seed``: pools in turn, overlap in turn, the rest at random."""
    rng = random.Random(f"{seed}:{number}")
    flags = [f"--max-total-tokens={POOLS[number % len(POOLS)]}"]
    if number % 2 == 0:
        flags.append("--disable-overlap-schedule")
    flags.append(f"--schedule-conservativeness={rng.choice(('0.02', '0.3', '1.0'))}")
    choices = (
        ("--chunked-prefill-size", (32, 128)),
        ("--max-running-requests", (8, 48)),
        ("--multiverse-max-depth", (1, 2, "none")),
        ("--multiverse-max-branches", (2, 3, "none")),
        ("--multiverse-max-live-rows", (1, 2)),
        ("--schedule-policy", ("lpm", "random")),
        ("--stream-interval", (4,)),
    )
    for name, values in choices:
        if rng.random() < 0.3:
            flags.append(f"{name}={rng.choice(values)}")
    if rng.random() < 0.2:
        flags.append("--disable-radix-cache")
    if rng.random() < 0.3:
        flags += ["--enable-mixed-chunk", "--chunked-prefill-size=32"]
    if rng.random() < 0.5:
        flags.append("--attention-backend=multiverse")
    if rng.random() < 0.25:
        flags.append(f"--multiverse-share-every={rng.choice((1, 3, 16))}")
    return Setting(tuple(flags))
