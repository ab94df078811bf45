"""A policy as a plain checkpoint that a server can load, adapters merged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from peft import PeftModel


def save_policy(model: Any, folder: Path) -> None:
    """Write weights and config of ``model`` into ``folder``.

    The adapters of a PEFT model are merged in a copy, which takes the model's memory once more:
    merged in place and taken out again, they would wear the frozen weights down by rounding.
    """
    if isinstance(model, PeftModel):
        model = copy.deepcopy(model).merge_and_unload()
    model.save_pretrained(folder)
