"""A hook of mkdocs: links of the documents that leave ``docs/`` lead into the repository."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Spell out every link to a file outside ``docs/``. One that leads nowhere stays, and fails."""
    root = Path(config["docs_dir"]).parent
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def mended(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        place = root / target
        if _shown(target) or not place.exists():
            return match[0]
        kind = "tree" if place.is_dir() else "blob"
        return f"]({config['repo_url']}/{kind}/main/{target}{match[2] or ''})"

    kept: list[str] = []
    text = _FENCE.sub(lambda found: kept.append(found[0]) or f"\0{len(kept) - 1}\0", markdown)
    text = _LINK.sub(mended, text)
    return re.sub(r"\0(\d+)\0", lambda found: kept[int(found[1])], text)


def _shown(target: str) -> bool:
    """Whether the site itself holds it."""
    return target.startswith("docs/") and not target.startswith("docs/grafana/")
