"""The fields of ``multiverse sft``: from a recipe, a YAML file and flags to settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser
from trl.scripts.utils import DatasetConfig

from .recipe_files import config_file, meant, read_yaml, recipes
from .refusals import ConfigError, told
from .trainer import MultiverseSFTConfig


@dataclass
class SFTScriptArguments(ScriptArguments):
    """TRL's script arguments and ours."""

    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Make every check that training makes, and say what would be trained and how "
            "much memory it takes; train nothing."
        },
    )
    accelerate_config: str | None = field(
        default=None,
        metadata={
            "help": "For dry_run: the accelerate config whose processes and sharding to count "
            "memory for; by default those this process was launched with."
        },
    )
    tiny_rows: int = field(
        default=2000, metadata={"help": "Rows to make where dataset_name is 'tiny'."}
    )
    tiny_seed: int = field(default=0, metadata={"help": "Seed of those rows."})

    def __post_init__(self) -> None:
        if self.tiny_rows < 1:
            raise ConfigError(f"tiny_rows is {self.tiny_rows}; give it 1 or more")


def parse(arguments: Sequence[str]) -> tuple[Any, ...]:
    """Read the command line and the config it names.

    Raises:
        ConfigError: a field that is unknown, of a wrong kind, or that contradicts another.
    """
    words = [
        part
        for word in arguments
        for part in (word.split("=", 1) if word.startswith("--config=") else [word])
    ]
    if words[-1:] == ["--config"]:
        raise ConfigError(f"--config needs a file, or a recipe: {', '.join(recipes())}")
    if "--config" in words:
        at = words.index("--config") + 1
        path = config_file(words[at])
        read_yaml(path)
        words[at] = str(path)
    parser = _Parser(
        (SFTScriptArguments, MultiverseSFTConfig, ModelConfig, DatasetMixtureConfig),
        prog="multiverse sft",
    )
    with told("these settings cannot be used", "see `multiverse sft --help`"):
        script, args, model, mixture, unknown = parser.parse_args_and_config(
            args=words, return_remaining_strings=True
        )
    parser.refuse(unknown, "the command line")
    if args.resume_from_checkpoint in ("true", "True"):  # the last one, not a folder of that name
        args.resume_from_checkpoint = True
    return script, args, model, mixture


class _Parser(TrlParser):
    """TRL's parser, which says in a line what it does not understand."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; `multiverse sft --help` lists the fields")

    def set_defaults_with_config(self, **given: Any) -> list[str]:
        known = {action.dest: action for action in self._actions}
        self.refuse((f"--{name}" for name in given if name not in known), "the config file")
        # Asked of the classes: the parser has reduced the types of their fields to one each.
        hints = {k: v for kind in self.dataclass_types for k, v in get_type_hints(kind).items()}
        kinds = {name: str(hint) for name, hint in hints.items()}
        _check_listed(given.get("datasets"))
        typed = {name: _typed(known[name], value, kinds[name]) for name, value in given.items()}
        return super().set_defaults_with_config(**typed)

    def refuse(self, unknown: Iterable[str], where: str) -> None:
        """Raise :class:`ConfigError` on the first word that is no field."""
        names = [action.dest for action in self._actions]
        for word in unknown:
            name = word.lstrip("-").partition("=")[0].replace("-", "_")
            if not word.startswith("--"):
                raise ConfigError(
                    f"{where} holds {word!r}, which belongs to no field; write --field value"
                )
            raise ConfigError(
                f"{where} sets {name!r}, which is no field of training"
                + (meant(name, names) or "; `multiverse sft --help` lists the fields")
            )


def _check_listed(datasets: Any) -> None:
    """Raise :class:`ConfigError` on an entry of ``datasets`` that names no data."""
    known = DatasetConfig.__dataclass_fields__
    if datasets is not None and not isinstance(datasets, list):
        raise ConfigError(f"datasets is {datasets!r}; it takes a list of entries with a path")
    for place, one in enumerate(datasets or []):
        if not isinstance(one, dict) or not isinstance(one.get("path"), str):
            raise ConfigError(
                f"datasets[{place}] names no data; write 'path: NAME' into it, and of these what "
                f"you need: {', '.join(known)}"
            )
        for name in one:
            if name not in known:
                raise ConfigError(f"datasets[{place}] sets {name!r}; it takes {', '.join(known)}")


def _typed(action: Any, value: Any, kind: str) -> Any:
    """``value`` of a YAML file as the command line would give it.

    argparse converts and checks only what is text.

    Args:
        kind: the annotation of the field.
    """
    wanted = getattr(action.type, "__name__", "")
    if value is False and "no" in (action.choices or ()):
        return "no"  # YAML reads a bare no as false
    takes = _TAKES.get(wanted)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
    fits = {
        "int": whole,
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "string_to_bool": isinstance(value, bool),
        "str": not isinstance(value, dict | list) or "dict" in kind or "list" in kind,
    }.get(wanted, True)
    if wanted == "ParallelismConfig":
        takes, fits = "nothing here: give it to accelerate launch", False
    if action.nargs == "+":
        takes, fits = "a list", isinstance(value, list)
    if value is not None and not isinstance(value, str) and not fits:
        raise ConfigError(f"the config file sets {action.dest} to {value!r}; it takes {takes}")
    if action.choices and isinstance(value, str) and value not in action.choices:
        raise ConfigError(
            f"the config file sets {action.dest} to {value!r}; it takes one of "
            f"{', '.join(map(str, action.choices))}"
        )
    if wanted == "int" and isinstance(value, float):
        return int(value)
    if wanted == "str" and isinstance(value, int | float) and kind in _TEXTS:
        return str(value)
    return value


_TAKES = {
    "int": "a whole number",
    "float": "a number",
    "string_to_bool": "true or false",
    "str": "one text",
}
_TEXTS = ("<class 'str'>", "str", "str | None")
