"""The reference of a configuration's fields, as Markdown::

    python -m sglang_multiverse.data_pipeline.reference

``docs/curation-config.md`` ends in it.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .config import Columns, Config
from .corpus.report import table
from .gates import GateOptions

_HEAD = ("field", "takes", "default", "what it is")


def reference() -> str:
    """Every field by part, from the models that read them."""
    lines = ["## The file", "", *_table(Config)]
    for name, field in Config.model_fields.items():
        model = _model(field)
        if model is not None:
            lines += [f"## `{name}`", "", *_about(model), *_table(model)]
        if name == "source":
            lines += ["### `source.columns`", "", *_about(Columns), *_table(Columns)]
        if name == "gates":
            lines += ["## `gates`", "", *table(_HEAD, list(_gates()))]
    return "\n".join(lines).rstrip() + "\n"


def _about(model: type[BaseModel]) -> list[str]:
    return [inspect.cleandoc(model.__doc__ or "").replace("\n", " "), ""]


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield from table(_HEAD, [_row(name, one) for name, one in model.model_fields.items()])


def _row(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    if field.is_required():
        default = "**required**"
    elif isinstance(field.default, BaseModel):
        default = "the defaults below"
    else:
        default = _value(field.default)
    return f"`{name}`", _takes(field.annotation), default, field.description or ""


def _gates() -> Iterator[tuple[str, str, str, str]]:
    """Of a dataclass, whose docstring says what each is."""
    said = dict(
        re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", inspect.getdoc(GateOptions) or "", re.M)
    )
    for field in fields(GateOptions):
        what = " ".join(said[field.name].split()).rstrip(".")
        yield f"`{field.name}`", _takes(type(field.default)), _value(field.default), what


def _value(value: Any) -> str:
    if value is None:
        return "none"
    shown = int(value) if isinstance(value, float) and value == int(value) else value
    return f"`{shown if isinstance(shown, str) else json.dumps(shown)}`"


def _takes(kind: Any) -> str:
    """A type, for readers."""
    if get_origin(kind) is Literal:
        return " or ".join(f"`{one}`" for one in get_args(kind))
    if get_origin(kind) is list:
        return "a list"
    if get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return "fields"
    if some := [one for one in get_args(kind) if one is not NoneType]:
        return " or ".join(map(_takes, some))
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    return names.get(kind.__name__, "path")


def _model(field: FieldInfo) -> type[BaseModel] | None:
    for one in (field.annotation, *get_args(field.annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


if __name__ == "__main__":
    print(reference(), end="")
