"""The configuration of a run: a YAML file, checked before anything is paid for."""

from __future__ import annotations

import json
import math
import os
import unicodedata
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from .gates import GateOptions
from .recipe import Judging, OnFailedRewrite, Recipe, counter
from .sampling.options import Choice, Draws
from .teacher.address import public_host
from .teacher.batch_file import MOST_BYTES, MOST_REQUESTS
from .teacher.budget import Budget, Prices
from .teacher.call import Sampling
from .teacher.collector import Batching
from .teacher.prompt import PromptError, Prompts
from .teacher.transport import Endpoint
from .yaml_file import YamlError, load_yaml

#: Fields of a request that ``extra`` may not name, and where they are set: accounts, budget and
#: store reckon with them, by whatever name a server knows them.
_SET = {
    **dict.fromkeys(["model", "models"], "`endpoint.model`"),
    **dict.fromkeys(
        [
            "max_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            "max_new_tokens",
            "max_length",
        ],
        "`sampling.max_tokens`",
    ),
    **{name: f"`sampling.{name}`" for name in ("temperature", "top_p", "seed")},
    **dict.fromkeys(["messages", "prompt", "input"], "the prompts"),
    **dict.fromkeys(["n", "best_of"], "the pipeline, which reads one choice"),
    **dict.fromkeys(["stream", "stream_options"], "the pipeline, which reads whole replies"),
}

#: Configurations that come with the package, by name.
FOLDER = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, field and remedy."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Columns(_Part):
    """Which column holds what; the defaults are those of s1K-1.1."""

    question: str = Field(default="question", description="what was asked; every row needs it")
    chain: str | None = Field(
        default="deepseek_thinking_trajectory",
        description="the sequential reasoning; every row needs it, but for `sample`",
    )
    attempt: str | None = Field(
        default="deepseek_attempt",
        description="what the model said after the chain, with its final answer: it ends the text, "
        "and the gates see to it that its answer is kept. A row needs it or `answer`",
    )
    answer: str | None = Field(
        default="solution",
        description="the dataset's own answer: what `right_answers` and `sample` compare with, and "
        "the end of the text where there is no attempt",
    )


class Source(_Part):
    """Where the chains come from: a dataset of the Hugging Face hub at a commit, or files."""

    dataset: str | None = Field(default=None, description="its name on the hub; this or `files`")
    revision: str | None = Field(
        default=None, description="the commit of `dataset` to read, which it needs"
    )
    config: str | None = Field(default=None, description="of `dataset`, where it has several")
    split: str = Field(default="train", description="of `dataset`")
    files: list[Path] = Field(
        default=[],
        description="JSON lines, JSON or parquet; paths start where the command is run",
    )
    columns: Columns = Field(default=Columns(), description="which column holds what, see below")
    require: dict[str, str] = Field(
        default={}, description="rows must have these values, e.g. deepseek_grade: Yes"
    )
    decontaminate: list[Path] = Field(
        default=[], description="JSON lines of test questions no row may share an n-gram with"
    )
    ngram: int = Field(default=13, ge=4, description="words of such an n-gram")
    limit: int | None = Field(default=None, ge=1, description="only the first so many usable rows")


class EndpointPart(_Part):
    """Where requests go, and how hard to try."""

    base_url: str = Field(
        pattern=r"^https?://(?:[^\s/\[\]]+|\[[0-9a-fA-F:]+\](?::\d+)?)(?:/\S*)?$",
        description="of an OpenAI-compatible API, up to and with `/v1`",
    )
    model: str = Field(min_length=1, description="its name there")
    api_key_env: str | None = Field(
        default=None, description="the environment variable that holds the key"
    )
    timeout: float = Field(default=600, gt=0, description="seconds of a request")
    attempts: int = Field(default=6, ge=1, description="requests a call at most")
    wait_initial: float = Field(
        default=1, ge=0, description="seconds before a request is tried again, doubled each time"
    )
    wait_max: float = Field(default=60, ge=0, description="seconds that such a wait may grow to")
    retry_after_max: float = Field(
        default=300, ge=0, description="seconds at most that a `Retry-After` is obeyed for"
    )
    concurrency: int = Field(default=16, ge=1, description="requests in flight at most")
    requests_per_minute: float | None = Field(
        default=None, gt=0, description="the provider's limit"
    )
    tokens_per_minute: float | None = Field(default=None, gt=0, description="the provider's limit")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", description="the field that bounds a reply"
    )

    @pydantic.field_validator("base_url")
    @classmethod
    def _bare(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"it is no address: {error}") from error
        if port == 0:
            raise ValueError("nobody listens on port 0")
        if "@" in parts.netloc or "?" in value or "#" in value:
            raise ValueError(
                "it holds a user and a password, a query or a fragment. An address is named in "
                "store and messages, a key never: give the address without, and name the "
                "environment variable that holds the key by `endpoint.api_key_env`"
            )
        return value

    def build(self) -> Endpoint:
        """The endpoint, with its key.

        Raises:
            ConfigError: the variable that should hold the key is not set.
        """
        key = "none"
        if self.api_key_env is not None:
            key = os.environ.get(self.api_key_env, "")
            if not key:
                raise ConfigError(
                    f"the environment variable {self.api_key_env} is not set; it holds the key "
                    "for the endpoint (`endpoint.api_key_env` names it)"
                )
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise ConfigError(
                f"the key in the environment variable {self.api_key_env} holds a line break, a "
                "space or a sign that is not ASCII; set it anew"
            )
        return Endpoint(api_key=key, **self.model_dump(exclude={"api_key_env"}))


def _beside(extra: dict[str, Any]) -> dict[str, Any]:
    """``extra`` fields of a request, where they can be sent beside those the pipeline sets.

    Raises:
        ValueError: they cannot.
    """
    for name in extra:
        if name in _SET:
            raise ValueError(f"`{name}` is set by {_SET[name]}; take it out here")
    try:
        json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"it goes into a request as JSON, and {error}") from error
    return extra


class SamplingPart(_Part):
    """What a request asks for beside its messages."""

    temperature: float | None = Field(default=None, description="the endpoint's own if not given")
    top_p: float | None = Field(default=None, description="the same")
    max_tokens: int = Field(
        default=32768, ge=1, le=10_000_000, description="of a reply, hidden reasoning included"
    )
    seed: int | None = Field(default=None, description="for endpoints that take one")
    extra: dict[str, Any] = Field(default={}, description="more fields, sent as they are")

    _extra = pydantic.field_validator("extra")(_beside)


class PricesPart(_Part):
    """Per million tokens, from the provider's price list."""

    input: float = Field(default=0, ge=0, description="of what is asked")
    output: float = Field(default=0, ge=0, description="of what is answered")
    cached_input: float | None = Field(
        default=None, ge=0, description="of what is asked and was cached; as `input` if not given"
    )
    currency: str = Field(default="USD", description="how amounts are shown")

    @pydantic.field_validator("currency")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not 1 <= len(value) <= 8 or not all(
            unicodedata.category(sign) in ("Lu", "Ll", "Lo", "Sc") for sign in value
        ):
            raise ValueError("it is no currency: a code or sign of 1 to 8 letters, as USD or €")
        return value


class BudgetPart(_Part):
    """Hard limits over the life of the store."""

    tokens: int | None = Field(default=None, ge=1, description="in and out")
    cost: float | None = Field(default=None, gt=0, description="by `prices`, which it needs")


class BatchPart(_Part):
    """The provider's batch API."""

    items: int = Field(default=5000, ge=1, description="items under way at once, one call each")
    requests: int = Field(
        default=MOST_REQUESTS, ge=1, le=MOST_REQUESTS, description="of one file at most"
    )
    megabytes: float = Field(
        default=MOST_BYTES / 1e6, gt=0, le=MOST_BYTES / 1e6, description="of one file at most"
    )
    wait: float = Field(default=600, gt=0, description="seconds a call waits for others at most")
    poll: float = Field(default=60, gt=0, description="seconds between looks at a batch")
    price: float = Field(default=0.5, gt=0, le=1, description="of `prices`")

    def build(self) -> Batching:
        return Batching(self.items, self.requests, int(self.megabytes * 1e6), self.wait, self.poll)


class SamplePart(_Part):
    """How `multiverse curate sample` draws answers and chooses from them."""

    n: int = Field(default=4, ge=1, le=1024, description="answers to each question")
    choose: Choice = Field(
        default="shortest",
        description="of the right ones: the shortest critical path, the most parallel one, or all",
    )
    mode: Literal["parallel", "sequential"] = Field(
        default="parallel", description="the sentence that ends a question"
    )
    system: str | None = Field(default=None, description="a system message")
    comparison: Literal["mathematics", "choice", "words"] = Field(
        default="mathematics", description="how an answer is compared with the dataset's"
    )
    extra: dict[str, Any] = Field(
        default={"separate_reasoning": False},
        description="sent with every request; the default asks SGLang for the thought in the text",
    )

    _extra = pydantic.field_validator("extra")(_beside)


class Card(_Part):
    """What the dataset card says that no program can know."""

    name: str = Field(default="multiverse-curated", description="of the dataset")
    license: str | None = Field(
        default=None, description="of the dataset, as the hub names it; a push needs it"
    )
    language: list[str] = Field(default=[], description="of the texts, as ISO 639-1: [en]")
    source_license: str | None = Field(default=None, description="of the source")
    terms: str | None = Field(
        default=None, description="the generator's terms of use, in a sentence that is printed"
    )
    homepage: str | None = Field(default=None, description="of the dataset; kept in the report")


class Config(_Part):
    """Everything a run is told."""

    source: Source = Field(description="where the rows come from")
    endpoint: EndpointPart = Field(description="the model that is asked")
    sampling: SamplingPart = Field(default=SamplingPart(), description="how it is asked")
    prices: PricesPart = Field(default=PricesPart(), description="what it costs")
    budget: BudgetPart = Field(default=BudgetPart(), description="what it may cost")
    batch: BatchPart | None = Field(
        default=None, description="ask by the provider's batch API; true: with the defaults"
    )
    gates: dict[str, Any] = Field(default={}, description="bounds and switches of the gates")
    attempts: int = Field(
        default=3, ge=1, le=100, description="times a task is given before its item is rejected"
    )
    room: int = Field(
        default=1, ge=0, le=8, description="times max_tokens may double after a reply that was cut"
    )
    on_failed_rewrite: OnFailedRewrite = Field(
        default="flatten",
        description="a block that cannot be rewritten, or whose paths need one another, becomes "
        "the source's own sentences, is kept as drafted, or rejects its item",
    )
    right_answers: bool = Field(
        default=False, description="reject chains that come to another answer than the dataset's"
    )
    judge: Judging = Field(
        default="doubtful",
        description="what the model judges: what words leave doubtful, also of every block whether "
        "its paths stand alone, or nothing, so that a doubt is a fault",
    )
    benefit: int | None = Field(
        default=None,
        description="tokens that a block must save on the critical path by more than; none is "
        "undone without it",
    )
    sample: SamplePart | None = Field(
        default=None, description="draw answers instead, by `multiverse curate sample`"
    )
    tokenizer: Path | None = Field(
        default=None,
        description="folder with a tokenizer.json to count lengths by; pieces of text without it",
    )
    prompts: Path | None = Field(default=None, description="folder of prompts of one's own")
    card: Card = Field(default=Card(), description="what the dataset card says")

    @pydantic.field_validator("judge", mode="before")
    @classmethod
    def _yes_or_no(cls, raw: Any) -> Any:
        """``true`` and ``false``, as before there was a third."""
        return {True: "every", False: "never"}[raw] if isinstance(raw, bool) else raw

    @pydantic.field_validator("batch", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @pydantic.model_validator(mode="before")
    @classmethod
    def _no_chain_is_needed(cls, raw: Any) -> Any:
        """Where answers are drawn, the source has questions and answers."""
        if not isinstance(raw, dict) or raw.get("sample") is None:
            return raw
        source = raw.get("source")
        if not isinstance(source, dict) or not isinstance(source.get("columns", {}), dict):
            return raw
        columns = {"answer": "answer", **source.get("columns", {}), "chain": None, "attempt": None}
        return {**raw, "source": {**source, "columns": columns}}

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Config:
        source = self.source
        if (source.dataset is None) == (not source.files):
            raise ValueError("source: give either `dataset` or `files`")
        if source.dataset is not None and source.revision is None:
            raise ValueError(
                "source.revision: a dataset of the hub needs the commit it is read at, so that the "
                "run can be repeated. Give `revision` (or --revision); "
                f"`hf datasets info {source.dataset}` prints the current one"
            )
        if self.budget.cost is not None and not (self.prices.input or self.prices.output):
            raise ValueError(
                "budget.cost: without `prices` (per million tokens, from the provider's price "
                "list) nothing would ever count against it"
            )
        known = {field.name for field in fields(GateOptions)}
        if unknown := set(self.gates) - known:
            raise ValueError(
                f"gates: unknown {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
            )
        _ = self.gate_options
        return self

    @cached_property
    def gate_options(self) -> GateOptions:
        """The gates' options, each of the type it has there.

        Raises:
            ValueError: one is of another type, or a number below 0.
        """
        try:
            options = TypeAdapter(GateOptions).validate_python(self.gates)
        except pydantic.ValidationError as error:
            raise ValueError(f"gates.{readable(error)}") from error
        for name, value in asdict(options).items():
            if not isinstance(value, bool) and not 0 <= value < math.inf:
                raise ValueError(f"gates.{name}: {value} is no number from 0 on")
        return options

    def recipe(self) -> Recipe:
        """What the stages are told.

        Raises:
            ConfigError: prompts or tokenizer cannot be read.
        """
        try:
            prompts = Prompts.load(self.prompts)
            count, name = counter(self.tokenizer)
        except (OSError, PromptError, ValueError) as error:
            raise ConfigError(str(error)) from error
        draws = self.sample and Draws(tokenizer=self.tokenizer, **self.sample.model_dump())
        return Recipe(
            model=self.endpoint.model,
            sampling=Sampling(**self.sampling.model_dump()),
            prompts=prompts,
            gates=self.gate_options,
            attempts=self.attempts,
            room=self.room,
            on_failed_rewrite=self.on_failed_rewrite,
            right_answers=self.right_answers,
            judge=self.judge,
            benefit=self.benefit,
            draws=draws,
            count_tokens=count,
            tokenizer=name,
        )

    def price_list(self) -> Prices:
        """What is charged: `prices`, at the rate of batches where calls go by them."""
        prices = Prices(**self.prices.model_dump())
        return prices if self.batch is None else prices.times(self.batch.price)

    def limits(self) -> Budget:
        return Budget(**self.budget.model_dump())

    def about(self) -> dict[str, Any]:
        """What a report and a card need to know, without keys and local addresses."""
        return {
            "source": self.source.model_dump(mode="json", exclude={"limit"}),
            "endpoint": public_host(self.endpoint.base_url),
            "prices": asdict(self.price_list()),
            "card": self.card.model_dump(),
            "tokenizer": str(self.tokenizer) if self.tokenizer else None,
        }


def load(
    path: str, overrides: dict[str, Any] | None = None, *, drop: tuple[str, ...] = ()
) -> Config:
    """The configuration of a file, or of one that comes with the package, by name.

    Args:
        overrides: dotted names (``endpoint.model``) to values; None values are left out, and ``{}``
            adds a part with its defaults where the file has none.
        drop: dotted names of fields to take out of the file first.

    Raises:
        ConfigError: no such file, not YAML, or a field that is wrong.
    """
    file = Path(path)
    if not file.is_file():
        shipped = {one.stem: one for one in FOLDER.glob("*.yaml")}
        if path not in shipped:
            raise ConfigError(
                f"no configuration {path!r}: neither a file nor one of {', '.join(sorted(shipped))}"
            )
        file = shipped[path]
    try:
        raw = load_yaml(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8; save it as UTF-8") from error
    except (OSError, YamlError) as error:
        raise ConfigError(f"{file}: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} holds no mapping of fields")
    for name in drop:
        _set(raw, name.split("."), None)
    for name, value in (overrides or {}).items():
        if value == {}:  # a part with its defaults, where the file has none
            raw[name] = raw.get(name) or {}
        elif value is not None:
            _set(raw, name.split("."), value)
    try:
        return Config.model_validate(raw)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{file}: {readable(error)}") from error


def _set(raw: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        if not isinstance(raw.get(name), dict):
            raw[name] = {}
        raw = raw[name]
    raw[path[-1]] = value


def readable(error: pydantic.ValidationError) -> str:
    """What is wrong with a part of a configuration, in one line."""
    lines = []
    for one in error.errors():
        where = ".".join(map(str, one["loc"]))
        message = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            message = f"unknown; there are {', '.join(_fields_beside(one['loc']))}"
        lines.append(f"{where}: {message}" if where else message)
    return "; ".join(lines)


def _fields_beside(place: tuple[int | str, ...]) -> list[str]:
    """The fields of the part of a configuration that has ``place``."""
    part: type[BaseModel] = Config
    for name in place[:-1]:
        kind = part.model_fields[str(name)].annotation
        part = next(
            one
            for one in (kind, *get_args(kind))
            if isinstance(one, type) and issubclass(one, BaseModel)
        )
    return sorted(part.model_fields)
