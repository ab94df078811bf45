"""Prompts: versioned Markdown files with ``{{name}}`` where values go."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from .call import digest

#: The prompts that come with the package.
FOLDER = Path(__file__).parent / "prompts"

_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_SLOT = re.compile(r"\{\{(\w+)\}\}")


class PromptError(ValueError):
    """A prompt file that cannot be used."""


@dataclass(frozen=True)
class Prompt:
    """One prompt. Its hash covers the text alone: a change of it reruns what depends on it."""

    name: str
    version: int
    text: str

    @cached_property
    def hash(self) -> str:
        return digest(self.text)

    def fill(self, **values: str) -> str:
        """The text with every slot filled. Values are never searched for slots.

        Raises:
            PromptError: a slot without a value or a value without a slot.
        """
        wanted = set(_SLOT.findall(self.text))
        if wanted != set(values):
            raise PromptError(
                f"prompt {self.name!r} has the slots {sorted(wanted)}, its stage fills "
                f"{sorted(values)}; a file of your own must have the same"
            )
        return _SLOT.sub(lambda match: values[match.group(1)], self.text)


@dataclass(frozen=True)
class Prompts:
    """The prompts of a folder by name."""

    by_name: dict[str, Prompt]

    def __getitem__(self, name: str) -> Prompt:
        try:
            return self.by_name[name]
        except KeyError:
            raise PromptError(
                f"no prompt {name!r}; there are {', '.join(sorted(self.by_name))}"
            ) from None

    @classmethod
    def load(cls, own: Path | None = None) -> Prompts:
        """The package's prompts, each replaced by the file of its name in ``own``.

        Raises:
            PromptError: a file without front matter, or one that replaces nothing.
        """
        prompts = {file.stem: read(file) for file in sorted(FOLDER.glob("*.md"))}
        if own is not None:
            if not own.is_dir():
                raise PromptError(f"{own} is no folder of prompts")
            for file in sorted(own.glob("*.md")):
                if file.stem not in prompts:
                    raise PromptError(
                        f"{file} replaces no prompt; there are {', '.join(sorted(prompts))}"
                    )
                prompts[file.stem] = read(file)
        return cls(prompts)


def read(file: Path) -> Prompt:
    """The prompt of ``file``."""
    raw = file.read_text(encoding="utf-8")
    front = _FRONT.match(raw)
    if front is None:
        raise PromptError(f"{file} does not begin with front matter (`---`, name, version, `---`)")
    head = yaml.safe_load(front.group(1))
    if not isinstance(head, dict) or not {"name", "version"} <= set(head):
        raise PromptError(f"the front matter of {file} lacks `name` or `version`")
    if head["name"] != file.stem:
        raise PromptError(f"{file} is named {head['name']!r} inside")
    return Prompt(file.stem, int(head["version"]), raw[front.end() :].strip())
