"""The files of Argilla's ``Dataset.to_disk`` and ``from_disk`` (argilla 2.8): settings, records."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .blocks import QUESTIONS, Unit

RECORDS = "records.json"
_SETTINGS, _DATASET = ".argilla/settings.json", ".argilla/dataset.json"
_GUIDELINES = "Judge each block by itself. Style does not count."


def write(units: Sequence[Unit], folder: Path) -> list[Path]:
    """A folder of a dataset named as ``folder``, with one record a block."""
    written = {
        _DATASET: {"name": folder.name, "guidelines": _GUIDELINES, "allow_extra_metadata": True},
        _SETTINGS: _settings(),
        RECORDS: [_record(unit) for unit in units],
    }
    paths = []
    for name, value in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
        paths.append(path)
    return paths


def _settings() -> dict[str, Any]:
    def text(name: str, required: bool) -> dict[str, Any]:
        settings = {"type": "text", "use_markdown": False}
        return {"name": name, "title": name, "required": required, "settings": settings}

    options = [{"text": value, "value": value} for value in ("yes", "no")]
    return {
        "guidelines": _GUIDELINES,
        "fields": [
            text("question", False),
            text("before", False),
            text("text", True),
        ],
        "questions": [
            *(
                {
                    "name": name,
                    "title": name,
                    "description": asked,
                    "required": True,
                    "settings": {"type": "label_selection", "options": options},
                }
                for name, asked in QUESTIONS.items()
            ),
            text("comment", False),
        ],
        "metadata": [
            {
                "name": "item",
                "title": "item",
                "visible_for_annotators": True,
                "settings": {"type": "terms"},
            },
            {
                "name": "block",
                "title": "block",
                "visible_for_annotators": True,
                "settings": {"type": "integer"},
            },
        ],
        "vectors": [],
        "allow_extra_metadata": True,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
    }


def _record(unit: Unit) -> dict[str, Any]:
    return {
        "id": unit.id,
        "fields": {"question": unit.question, "before": unit.before, "text": unit.text},
        "metadata": {"item": unit.item, "block": unit.block},
        "suggestions": {},
        "responses": {},
        "vectors": {},
    }


def knows(value: Any) -> bool:
    """Whether ``value`` is what ``records.json`` holds."""
    return isinstance(value, list) and all(
        isinstance(one, dict) and "fields" in one and "responses" in one for one in value
    )


def read(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row for each who answered a record; one without answers where nobody did. What somebody
    discarded is no answer.

    Raises:
        ValueError: a record is not as Argilla writes it; the message names it.
    """
    for number, record in enumerate(records, start=1):
        try:
            about = {name: record["metadata"][name] for name in ("item", "block")}
            by_person: dict[str, dict[str, Any]] = defaultdict(dict)
            for name, responses in (record["responses"] or {}).items():
                for one in responses or ():
                    if one.get("status") != "discarded":
                        by_person[str(one.get("user_id") or "")][name] = one["value"]
        except KeyError as error:
            raise ValueError(f"record {number}: no {error}; write it by Dataset.to_disk") from error
        except (TypeError, AttributeError) as error:
            said = "fields, metadata and responses are not as Dataset.to_disk writes them"
            raise ValueError(f"record {number}: {said}") from error
        for person, answers in by_person.items():
            yield {**about, **answers, "reviewer": person}
        if not by_person:
            yield about
