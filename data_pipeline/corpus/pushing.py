"""A dataset of ours to the hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Of an exported folder.
_PATTERNS = ["README.md", "data/*", "mixed/*", "report/*", "figures/*"]


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
        PushError: it is none, or its card names no licence.
    """
    from huggingface_hub import DatasetCard

    card = folder / "README.md"
    if not card.is_file() or not any(folder.glob("data/*.parquet")):
        raise PushError(f"{folder} is no dataset; `multiverse curate export` writes one")
    licence = DatasetCard.load(card).data.to_dict().get("license")
    if not licence:
        raise PushError(
            f"{card} names no license: a public dataset needs one. Fill in `card.license` of the "
            "configuration and export anew, or write it into the front matter of the card"
        )
    files = sorted(one for pattern in _PATTERNS for one in folder.glob(pattern) if one.is_file())
    return Upload({str(one.relative_to(folder)): one.stat().st_size for one in files}, licence)


def push(
    folder: Path, repo: str, *, public: bool = False, message: str = "", api: Any = None
) -> str:
    """Make ``repo`` if it is not there and upload ``folder``; the address of the commit.

    Args:
        public: make a new repository public; one that is there keeps what it is.
        api: a ``huggingface_hub.HfApi``.

    Raises:
        PushError: nobody is logged in, or the hub refuses.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    prepare(folder)
    hub = api or HfApi()
    if api is None and get_token() is None:
        raise PushError("nobody is logged in to the hub: `hf auth login`, or set HF_TOKEN")
    steps: list[Callable[[], Any]] = [
        lambda: hub.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True),
        lambda: hub.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=str(folder),
            allow_patterns=_PATTERNS,
            commit_message=message or "Add the corpus, its card and its report",
        ),
    ]
    try:
        done = [step() for step in steps][-1]
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise PushError(f"the hub refuses {repo}: {' '.join(str(error).split())[:400]}") from error
    return str(getattr(done, "commit_url", done))
