"""The page of configuration fields says what the models say."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from sglang_multiverse.data_pipeline.config import Config
from sglang_multiverse.data_pipeline.reference import reference


def test_the_page_ends_in_the_reference(repository: Path) -> None:
    """Else: ``python -m sglang_multiverse.data_pipeline.reference``."""
    page = (repository / "docs" / "curation-config.md").read_text(encoding="utf-8")
    assert page.endswith(f"\n\n{reference()}")


def test_every_field_is_there_and_said() -> None:
    said = reference()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*) \|$", said, re.MULTILINE)
    assert [name for name, *cells in rows if not all(cell.strip() for cell in cells)] == []

    def names(model: type[BaseModel]) -> list[str]:
        found = list(model.model_fields)
        for field in model.model_fields.values():
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    found += names(kind)
        return found

    assert set(names(Config)) <= {name for name, *_ in rows}
    assert "| `base_url` | text | **required** |" in said
    assert "| `judge` | `never` or `doubtful` or `every` | `doubtful` |" in said
    assert "| `max_depth` | whole number | `2` | most blocks around one sentence |" in said
