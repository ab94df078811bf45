"""The plot of ``multiverse bench serve``: speed-up over stock by degree, beside the ideal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COLOURS = {"client": "tab:orange", "plugin": "tab:blue", "multiverse": "tab:green"}
_LABELS = {
    "client": "client-side fork and join",
    "plugin": "plugin, stock attention",
    "multiverse": "plugin, multiverse attention",
}


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the plot of a ``serve`` result; the suffix of ``path`` says the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in result["rows"] if row["name"].startswith("degree")]
    batches = sorted({row["batch"] for row in rows})
    figure, axes = pyplot.subplots(
        1, len(batches), figsize=(1 + 4 * len(batches), 3.6), sharey=True, squeeze=False
    )
    for axis, batch in zip(axes[0], batches, strict=True):
        mine = sorted((row for row in rows if row["batch"] == batch), key=lambda row: row["degree"])
        lengths = {row["path_tokens"] for row in mine}
        length = min(lengths)
        mine = [row for row in mine if row["path_tokens"] == length]
        degrees = [row["degree"] for row in mine]
        axis.plot(degrees, [row["ideal"] for row in mine], "k--", label="ideal, by step times")
        for way, colour in _COLOURS.items():
            if any(row["seconds"][way] is None for row in mine):
                continue
            gain = [row["seconds"]["stock"] / row["seconds"][way] for row in mine]
            axis.plot(degrees, gain, "o-", color=colour, label=_LABELS[way])
        axis.axhline(1, color="0.8", zorder=0)
        axis.set_title(f"{batch} text{'s' if batch > 1 else ''} at once, paths of {length}")
        axis.set_xlabel("degree of parallelism")
    axes[0][0].set_ylabel("speed-up over stock, sequential")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
