"""YAML as configurations and prompts have it: what it cannot hold is said with its place."""

from __future__ import annotations

from typing import Any

import yaml


class YamlError(ValueError):
    """A text that is no YAML, or says one thing twice; the message names line and column."""


class _Loader(yaml.SafeLoader):
    """Refuses doubled keys, and values that look like a date or a number and are none."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            reason = str(error).partition(";")[0]
            raise yaml.constructor.ConstructorError(
                None, None, f"a value that cannot be read ({reason})", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is there a second time", key.start_mark
                )
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """The value of ``text``.

    Raises:
        YamlError: it holds none.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        what = ", ".join(filter(None, (error.context, error.problem)))
        raise YamlError(f"{where}{what}") from error
    except yaml.reader.ReaderError as error:
        raise YamlError(f"character {error.position + 1}: {error.reason}") from error
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise YamlError("nested too deep to be read") from error
