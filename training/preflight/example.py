"""One example as it is trained on: what takes loss, what does not, what an engine writes."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from ...structure import parse
from ..collator import IGNORED, MultiverseCollator, injected

LEGEND = "what carries loss stands bare, ‹…› carries none, «…» an engine writes by itself"

#: Characters of a rendered example; a longer one is shortened in the middle.
LONGEST = 4000


def rendered(tokenizer: Any, collator: MultiverseCollator, row: dict[str, Any]) -> str:
    """The first text of ``row`` (``input_ids``, ``labels``, of a packed row ``seq_lengths``)."""
    length = (row.get("seq_lengths") or [len(row["input_ids"])])[0]
    ids, given = row["input_ids"][:length], row["labels"][:length]
    batch = collator.torch_call([{"input_ids": ids, "labels": given}])
    labels = batch["labels"][0][:length].numpy()
    engine = injected(parse(ids, collator.dialect), np.asarray(ids), collator.dialect)
    kinds = np.where(labels != IGNORED, "", np.where(engine, "«»", "‹›"))
    parts = []
    for kind, run in groupby(zip(kinds.tolist(), ids, strict=True), key=lambda pair: pair[0]):
        text = tokenizer.decode([token for _, token in run], skip_special_tokens=False)
        parts.append(f"{kind[:1]}{text}{kind[1:]}")
    text = "".join(parts)
    if len(text) > LONGEST:
        half = LONGEST // 2
        text = f"{text[:half]}\n… {len(text) - LONGEST} characters left out …\n{text[-half:]}"
    return text
