"""A dataset of ours to the hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..yaml_file import YamlError, load_yaml
from .card import FIGURES

#: What an export writes.
_WRITTEN = re.compile(
    r"README\.md|(?:data|mixed)/train-\d{5}-of-\d{5}\.parquet|report/report\.(?:json|md)"
    rf"|figures/(?:{'|'.join(name for name, *_ in FIGURES)})\.png"
)
_FRONT = re.compile(r"\s*---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
#: How a card gets a license, for the reader.
LICENSE = (
    "write `card.license` into the configuration, give the command of the run once more (it makes "
    "no call) and export to a new folder; or write `license:` into the front matter of the card"
)


class PushError(RuntimeError):
    """It cannot be pushed; the message says why and what to do."""


@dataclass(frozen=True)
class Upload:
    """What would go: files with their bytes, by their place in the dataset."""

    files: dict[str, int]
    licence: str

    @property
    def size(self) -> int:
        return sum(self.files.values())


def prepare(folder: Path) -> Upload:
    """Look through an exported ``folder``.

    Raises:
        PushError: it is none, or its card cannot be read or names no license.
    """
    card = folder / "README.md"
    if not card.is_file() or not any(folder.glob("data/*.parquet")):
        raise PushError(f"{folder} is no dataset; `multiverse curate export` writes one")
    files = {
        name: one.stat().st_size
        for one in sorted(folder.rglob("*"))
        if _WRITTEN.fullmatch(name := one.relative_to(folder).as_posix()) and one.is_file()
    }
    return Upload(files, _licence(card))


def _licence(card: Path) -> str:
    """What the front matter of ``card`` names as its license."""
    try:
        front = _FRONT.match(card.read_text(encoding="utf-8"))
        head = load_yaml(front.group(1)) if front is not None else {}
    except UnicodeDecodeError as error:
        raise PushError(f"{card} is not UTF-8; save it as UTF-8") from error
    except YamlError as error:
        raise PushError(f"the front matter of {card} is no YAML: {error}") from error
    if not isinstance(head, dict):
        raise PushError(f"the front matter of {card} is no list of fields, each `name: value`")
    named = head.get("license")
    if named is None or named in ("", []):
        raise PushError(
            f"{card} names no license: a public dataset needs one. To name it, {LICENSE}"
        )
    licences = named if isinstance(named, list) else [named]
    for one in licences:
        if not isinstance(one, str) or not _LICENCE.fullmatch(one):
            raise PushError(
                f"{card}: license {one!r} is none that the hub knows; it names them in small "
                "letters, as apache-2.0, cc-by-4.0 or other"
            )
    return ", ".join(licences)


def check_repo(repo: str) -> None:
    """See that the hub can have a repository of that name.

    Raises:
        PushError: it cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise PushError(f"{repo!r} is no name of a repository: {error}") from error
    if "/" not in repo:
        raise PushError(f"{repo!r} names no owner; write owner/{repo}")


def push(
    folder: Path, repo: str, *, public: bool = False, message: str = "", api: Any = None
) -> str:
    """Make ``repo`` if it is not there and upload ``folder``; the address of the commit.

    Args:
        public: make a new repository public; one that is there keeps what it is.
        api: a ``huggingface_hub.HfApi``.

    Raises:
        PushError: nobody is logged in, or the hub refuses or cannot be reached.
    """
    import httpx
    from huggingface_hub import HfApi, get_token

    check_repo(repo)
    upload = prepare(folder)
    hub = api or HfApi()
    if api is None and get_token() is None:
        raise PushError("nobody is logged in to the hub: `hf auth login`, or set HF_TOKEN")
    steps: list[Callable[[], Any]] = [
        lambda: hub.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True),
        lambda: hub.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=str(folder),
            allow_patterns=list(upload.files),
            commit_message=message or "Add the corpus, its card and its report",
        ),
    ]
    try:
        done = [step() for step in steps][-1]
    except (httpx.TransportError, httpx.InvalidURL, ConnectionError, TimeoutError) as error:
        raise PushError(
            f"the hub at {hub.endpoint} cannot be reached: {_line(error)}. Give the same command "
            "again when it can"
        ) from error
    except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise PushError(f"the hub refuses {repo}: {_line(error)}") from error
    return str(getattr(done, "commit_url", done))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
