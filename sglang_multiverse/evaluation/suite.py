"""A suite: which tasks, in which modes and budgets, of which servers; read from YAML.

::

    name: tiny
    servers:
      tiny: {serve: tiny, flags: [--dtype, float32]}     # or base_url: http://host:30000
    sampling: {temperature: 0.6, top_p: 0.95}
    epochs: 2
    arms:
      - {task: tiny, modes: [parallel, sequential, off], budgets: [null, 256]}
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from .tasks import TASKS, Mode

#: Flags that a server to start gets from the run.
_TAKEN = ("--model-path", "--model", "--host", "--port", "--plugin", "--api-key")


class SuiteError(ValueError):
    """A suite that cannot be run; the message says which field of which file, and why."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _folder(name: str) -> str:
    """A name that a folder gets, too."""
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise ValueError("a folder is called like this: no slash, and not . or ..")
    return name


Name = Annotated[str, AfterValidator(_folder)]
#: What ``urllib`` and httpx both take for the address of a server.
_URL = re.compile(
    r"https?://([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?(/[!-~]*)?", re.ASCII | re.IGNORECASE
)


class ServerOf(_Strict):
    """A server that is asked: one that runs (``base_url``), or one to start (``serve``: a folder,
    a name on the Hub, or ``machines`` or ``sums`` for the models that ship).

    Attributes:
        flags: of a server to start; of one that runs they are for the report alone.
        plugin: whether it has the plugin; one to start is started accordingly.
        model: the served name, where the server has several.
        gpu, revision: what the report is to say of a server that does not say it itself.
    """

    base_url: str | None = None
    serve: str | None = None
    flags: tuple[str, ...] = ()
    plugin: bool = True
    model: str | None = None
    gpu: str | None = None
    revision: str | None = None

    @field_validator("base_url")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url is not None and not _URL.fullmatch(url):
            raise ValueError(f"{url!r} is no address such as http://127.0.0.1:30000")
        return url

    @field_validator("flags", mode="before")
    @classmethod
    def _as_text(cls, flags: Any) -> Any:
        return tuple(map(str, flags)) if isinstance(flags, list) else flags


class Sampling(_Strict):
    """As in a request; what is left out is the server's default."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


class ArmsOf(_Strict):
    """One arm for each mode and budget."""

    task: str
    server: str | None = None
    modes: tuple[Mode, ...] = Field(default=("parallel",), min_length=1)
    budgets: tuple[Annotated[int, Field(gt=0)] | None, ...] = Field(default=(None,), min_length=1)
    data: str | None = None
    max_tokens: int | None = Field(default=None, gt=0)
    epochs: int | None = Field(default=None, gt=0)
    limit: int | None = Field(default=None, gt=0)

    @field_validator("modes", mode="before")
    @classmethod
    def _off(cls, modes: Any) -> Any:
        """YAML reads ``off`` as false."""
        if isinstance(modes, list):
            return tuple("off" if mode is False else mode for mode in modes)
        return modes

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        if task not in TASKS:
            raise ValueError(f"no task {task!r}; there are {', '.join(TASKS)}")
        return task


class Suite(_Strict):
    """A whole suite.

    Attributes:
        epochs: answers to each question, where an arm names no number.
        connections: requests in flight.
        retries: times a request is sent again that a server could not take.
    """

    name: Name
    servers: dict[Name, ServerOf]
    arms: tuple[ArmsOf, ...] = Field(min_length=1)
    sampling: Sampling = Sampling()
    epochs: int = Field(default=1, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)
    seed: int = 0
    connections: int = Field(default=16, gt=0)
    retries: int = Field(default=5, ge=0)
    about: str = ""

    def of_server(self, name: str) -> list[dict[str, Any]]:
        """The arms of one server: name of the task and its arguments."""
        first = next(iter(self.servers))
        found = []
        for arms in self.arms:
            if (arms.server or first) != name:
                continue
            for mode, budget in product(arms.modes, arms.budgets):
                given = {
                    "mode": mode,
                    "budget": budget,
                    "data": arms.data,
                    "max_tokens": arms.max_tokens or self.max_tokens,
                    "epochs": arms.epochs or self.epochs,
                    "limit": arms.limit,
                    "seed": self.seed,
                }
                kept = {key: value for key, value in given.items() if value is not None}
                found.append({"task": arms.task, **kept})
        return found


def load(path: Path, limit: int | None = None) -> Suite:
    """The suite of a file; paths of data and models in it count from the file's folder.

    Args:
        limit: questions of each task, whatever the file says.

    Raises:
        SuiteError: it cannot be read, or a field is unknown or unusable.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SuiteError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise SuiteError(f"{path} is no mapping of name, servers and arms")
    try:
        suite = Suite.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise SuiteError(f"{path}, {where}: {first['msg']}") from error
    arms = tuple(
        arm.model_copy(update={"data": _found(arm.data, path.parent), "limit": limit or arm.limit})
        for arm in suite.arms
    )
    suite = suite.model_copy(update={"arms": arms})
    _check(suite, path)
    return suite


def _check(suite: Suite, path: Path) -> None:
    if not suite.servers:
        raise SuiteError(f"{path}, servers: name one at least")
    for name, server in suite.servers.items():
        if (server.base_url is None) == (server.serve is None):
            raise SuiteError(f"{path}, servers.{name}: give base_url or serve, one of the two")
        taken = [flag for flag in server.flags if flag.partition("=")[0] in _TAKEN]
        if server.serve is not None and taken:
            raise SuiteError(
                f"{path}, servers.{name}.flags: {taken[0].partition('=')[0]} is chosen by the run; "
                "for one of your own start the server yourself and give its base_url"
            )
    first = next(iter(suite.servers))
    for number, arm in enumerate(suite.arms):
        if arm.server is not None and arm.server not in suite.servers:
            known = ", ".join(suite.servers)
            raise SuiteError(
                f"{path}, arms.{number}.server: no server {arm.server!r}; there are {known}"
            )
        forking = [mode for mode in arm.modes if mode != "off"]
        if forking and any(arm.budgets) and not suite.servers[arm.server or first].plugin:
            raise SuiteError(
                f"{path}, arms.{number}.budgets: a server without the plugin keeps none in mode "
                f"{forking[0]}; ask it in mode off"
            )
    for name in suite.servers:
        arms = suite.of_server(name)
        for number, one in enumerate(arms):
            if one in arms[:number]:
                said = ", ".join(f"{key} {value}" for key, value in one.items())
                raise SuiteError(f"{path}, arms: {name} is asked the same twice ({said})")


def _found(data: str | None, folder: Path) -> str | None:
    if data is None or Path(data).is_absolute():
        return data
    beside = folder / data
    return str(beside) if beside.exists() else data
