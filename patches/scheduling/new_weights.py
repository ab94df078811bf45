"""Weights that come while the server runs must be of the layout it serves.

Target: ``SchedulerWeightUpdaterManager.update_weights_from_disk``. What comes as tensors brings no
config, and is the sender's to answer for. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sglang.srt.managers.io_struct import UpdateWeightFromDiskReqOutput
from sglang.srt.plugins.hook_registry import HookType

from ..active import coordinator
from ..hooks import Hook
from ..support import layout_problems

_UPDATER = "sglang.srt.managers.scheduler_components.weight_updater.SchedulerWeightUpdaterManager"


def recorded(model_path: str) -> dict[str, Any]:
    """What the config of a folder says of how its weights were trained; empty where there is none
    that can be read, which loading them will tell."""
    try:
        config = json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    made = config.get("multiverse") if isinstance(config, dict) else None
    return made if isinstance(made, dict) else {}


def _from_disk(original: Any, updater: Any, recv_req: Any) -> Any:
    active = coordinator()
    if active is not None:
        found = layout_problems(recorded(recv_req.model_path), active.options.share_every)
        if found:
            message = f"{recv_req.model_path} was not loaded: {'; '.join(found)}"
            return UpdateWeightFromDiskReqOutput(
                success=False, message=message, num_paused_requests=0
            )
    return original(updater, recv_req)


HOOKS = (
    Hook(f"{_UPDATER}.update_weights_from_disk", HookType.AROUND, _from_disk, ("self", "recv_req")),
)
