"""Prompts: versioned Markdown files with ``{{name}}`` where values go."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..yaml_file import YamlError, load_yaml
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

    @cached_property
    def slots(self) -> frozenset[str]:
        """The names in the text that values go to."""
        return frozenset(_SLOT.findall(self.text))

    def fill(self, **values: str) -> str:
        """The text with every slot filled. Values are never searched for slots.

        Raises:
            PromptError: a slot without a value or a value without a slot.
        """
        if self.slots != set(values):
            raise PromptError(
                f"prompt {self.name!r} has the slots {sorted(self.slots)}, its stage fills "
                f"{sorted(values)}"
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
            PromptError: a file without front matter, one that replaces nothing, or one without
                the slots of the file it replaces.
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
                mine, theirs = read(file), prompts[file.stem]
                if mine.slots != theirs.slots:
                    raise PromptError(
                        f"{file} has {_named(mine.slots)}, its stage fills {_named(theirs.slots)}: "
                        f"write the same as in {FOLDER / file.name}"
                    )
                prompts[file.stem] = mine
        return cls(prompts)


def read(file: Path) -> Prompt:
    """The prompt of ``file``.

    Raises:
        PromptError: it has no front matter with its name and a version, or no text after it.
    """
    try:
        raw = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{file} is not UTF-8; save it as UTF-8") from error
    front = _FRONT.match(raw)
    if front is None:
        raise PromptError(f"{file} does not begin with front matter (`---`, name, version, `---`)")
    try:
        head = load_yaml(front.group(1))
    except YamlError as error:
        raise PromptError(f"the front matter of {file} is no YAML: {error}") from error
    if not isinstance(head, dict) or not {"name", "version"} <= set(head):
        raise PromptError(f"the front matter of {file} lacks `name` or `version`")
    if head["name"] != file.stem:
        raise PromptError(f"{file} is named {head['name']!r} inside")
    version = head["version"]
    if not isinstance(version, int) or isinstance(version, bool):
        raise PromptError(f"the version of {file} is {version!r}; it must be a whole number")
    text = raw[front.end() :].strip()
    if not text:
        raise PromptError(f"{file} holds no text after its front matter")
    return Prompt(file.stem, version, text)


def _named(slots: frozenset[str]) -> str:
    return ", ".join(f"{{{{{name}}}}}" for name in sorted(slots)) or "no slot"
