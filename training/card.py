"""The card of a trained model: its README, for people and, in the head, for the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

import sglang_multiverse

from ..layout import LAYOUT_VERSION
from ..tiny import MODEL_DIR
from .screen import Screening

PAPER = "arXiv:2506.09991"
_LINK = f"[{PAPER}](https://arxiv.org/abs/{PAPER.removeprefix('arXiv:')})"

_MEANT = {
    "multiverse": "forked texts under the mask and positions they are served with",
    "autoregressive": "the autoregressive baseline: the same answers flattened, causal attention",
    "no-mask": "an ablation: the same texts under causal attention",
    "no-positions": "an ablation: the mask, with positions in text order",
}


@dataclass(frozen=True)
class Facts:
    """What the card says.

    Attributes:
        base: folder or Hub name of the model that was trained; of a folder only its name is told.
        data: names of the datasets; ``screenings`` counts their examples, by split.
        steps: optimizer steps so far.
    """

    name: str
    base: str
    adapter: bool
    variant: str
    share_every: int | None
    curriculum: bool
    data: Sequence[str]
    screenings: Mapping[str, Screening]
    tags: Sequence[str]
    steps: int


def model_card(facts: Facts) -> str:
    """The card, Markdown under a YAML head."""
    return (
        f"---\n{yaml.safe_dump(_head(facts), sort_keys=False)}---\n\n"
        f"# {facts.name}\n\n{_about(facts)}\n\n{_table(facts)}\n"
        f"## Data\n\n{_data(facts)}\n\n## Serve\n\n{_serve(facts)}\n\n## Paper\n\n"
        f"Natively parallel generation is described in {_LINK}, *Multiverse: Your Language Models "
        "Secretly Decide How to Parallelize and Merge Generation*.\n"
    )


def _head(facts: Facts) -> dict[str, object]:
    head: dict[str, object] = {
        "library_name": "peft" if facts.adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": [*facts.tags, "sglang-multiverse", PAPER.lower()],
    }
    if not _local(facts.base):
        head["base_model"] = facts.base
    on_hub = [name for name in facts.data if not _local(name) and "/" in name]
    if on_hub:
        head["datasets"] = on_hub
    return head


def _about(facts: Facts) -> str:
    kind = "LoRA adapter of" if facts.adapter else "fine-tuned from"
    return (
        f"{'A ' if facts.adapter else ''}{kind[0].upper() if not facts.adapter else kind[0]}"
        f"{kind[1:]} `{_name(facts.base)}` by `multiverse sft` "
        f"(sglang-multiverse {sglang_multiverse.__version__}): {_MEANT[facts.variant]}."
    )


def _table(facts: Facts) -> str:
    layout = {"multiverse": str(LAYOUT_VERSION), "autoregressive": "none"}.get(
        facts.variant, facts.variant
    )
    rows = {
        "base model": f"`{_name(facts.base)}`",
        "layout": layout,
        "variant": f"`{facts.variant}`",
        "share_every": "none" if facts.share_every is None else str(facts.share_every),
        "curriculum": "eight passes" if facts.curriculum else "none",
        "steps": str(facts.steps),
    }
    lines = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    return "\n".join(lines) + "\n"


def _data(facts: Facts) -> str:
    lines = [", ".join(f"`{_name(name)}`" for name in facts.data) or "Not named.", ""]
    lines += [
        f"- {split}: {line}" for split, one in facts.screenings.items() for line in one.lines()
    ]
    return "\n".join(lines).strip()


def _serve(facts: Facts) -> str:
    if facts.variant in ("no-mask", "no-positions"):
        return (
            "No engine that forks computes this layout: it is for comparison. Served, the "
            "checkpoint is refused."
        )
    folder = "merged" if facts.adapter else "."
    merge = "multiverse merge-adapter . --out merged\n" if facts.adapter else ""
    said = "" if facts.variant == "multiverse" else " It answers in one sequence and never forks."
    return f"```bash\n{merge}multiverse serve --model-path {folder}\n```\n\nFrom this folder.{said}"


def _local(name: str) -> bool:
    return Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1


def _name(name: str) -> str:
    """A name without the folders of the machine it was trained on."""
    if Path(name) == MODEL_DIR:
        return "tiny"
    return Path(name).name if _local(name) else name
