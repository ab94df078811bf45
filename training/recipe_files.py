"""Config files of the training commands: by path, or by the name of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from .refusals import ConfigError

#: Those of ``multiverse sft``; deeper folders hold those of other commands.
RECIPES = Path(__file__).parent / "recipes"


def recipes(folder: Path = RECIPES) -> list[str]:
    """Names that ``--config`` takes besides a file's."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def config_file(name: str, folder: Path = RECIPES) -> Path:
    """The YAML file for a path or the name of a recipe in ``folder``.

    Raises:
        ConfigError: there is none.
    """
    for path in (Path(name), folder / f"{name}.yaml"):
        if path.is_file():
            return path
    if Path(name).is_dir():
        raise ConfigError(f"--config {name} is a folder; name a YAML file in it")
    known = recipes(folder)
    raise ConfigError(
        f"no config file {name!r}, nor a recipe of that name: {', '.join(known)}"
        + meant(name, known)
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields that a config file sets.

    Raises:
        ConfigError: it is no YAML, or no mapping.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is no YAML: {' '.join(str(error).split())}; write lines such as "
            "'learning_rate: 1.0e-5'"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"{path} sets no fields; write lines such as 'learning_rate: 1.0e-5'")
    return found


def meant(name: str, known: Sequence[str]) -> str:
    """The near miss among ``known``, as the end of an error; nothing where there is none."""
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


__all__ = ["RECIPES", "config_file", "meant", "read_yaml", "recipes"]
