"""Hidden states of a model at chosen tokens and layers, kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..teacher.call import digest
from .sites import Encoded, Site

#: States by layer; 0 is the embedding, k the output of the k-th block of the model.
States = dict[int, npt.NDArray[np.float16]]

#: Bytes of weights above which a CPU is refused unless it is asked for.
_MOST_ON_CPU = 8 * 2**30


class StatesError(ValueError):
    """States cannot be had; the message says what is missing."""


def layers_of(given: str | None, count: int) -> list[int]:
    """The layers to probe, of a model of ``count``: ``all``, numbers with commas, or (None) the
    embedding, about eight evenly spaced ones, and the last.

    Raises:
        StatesError: a number that is no layer.
    """
    if given == "all":
        return list(range(count + 1))
    if given is None:
        return sorted({*range(0, count, max(count // 8, 1)), count})
    try:
        wanted = sorted({int(one) for one in given.split(",")})
    except ValueError as error:
        raise StatesError(f"--layers {given!r}: give numbers with commas, or all") from error
    if wrong := [one for one in wanted if not 0 <= one <= count]:
        raise StatesError(f"--layers: the model has 0 (the embedding) to {count}, not {wrong}")
    return wanted


def load_config(folder: Path) -> Any:
    """The configuration of the model in ``folder``.

    Raises:
        StatesError: there is none.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise StatesError(f"{folder} holds no model: config.json is missing; download it first")
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def device_of(given: str | None, folder: Path) -> str:
    """The device to run on.

    Raises:
        StatesError: a large model and no GPU, or a GPU that is not there.
    """
    import torch

    cuda = torch.cuda.is_available()
    if given == "cuda" and not cuda:
        raise StatesError("--device cuda: torch sees no GPU")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if given is None and not cuda and size > _MOST_ON_CPU:
        raise StatesError(
            f"the weights take {size / 2**30:.0f} GiB and torch sees no GPU: a model of this size "
            "needs one (a 32B model 64 GiB of GPU memory in bfloat16); --device cpu insists"
        )
    return given or ("cuda" if cuda else "cpu")


def read_states(
    folder: Path,
    texts: Sequence[Encoded],
    sites: Sequence[Site],
    layers: Sequence[int],
    device: str,
) -> States:
    """Run every text once, causally, and keep the states at its sites.

    Returns:
        by layer, shape ``(len(sites), hidden size)``.
    """
    import torch
    from transformers import AutoModel

    options: dict[str, Any] = {"dtype": torch.float32}
    if device == "cuda":
        options = {"dtype": torch.bfloat16, "device_map": "auto"}
    model = AutoModel.from_pretrained(folder, local_files_only=True, **options).eval()
    modules = _layers(model)
    kept: dict[int, Any] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: Any, given: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            kept[layer] = states[0, at].float().cpu().numpy()

        return hook

    hooks = [modules[layer].register_forward_hook(keep(layer)) for layer in layers]
    by_trace: dict[int, list[int]] = {}
    for place, site in enumerate(sites):
        by_trace.setdefault(site.trace, []).append(place)
    found: States = {}
    try:
        with torch.inference_mode():
            for trace, places in by_trace.items():
                at = [sites[place].index for place in places]
                ids = torch.tensor([texts[trace].ids[: max(at) + 1]], device=model.device)
                model(input_ids=ids, use_cache=False)
                for layer in layers:
                    if layer not in found:
                        shape = (len(sites), kept[layer].shape[-1])
                        found[layer] = np.empty(shape, dtype=np.float16)
                    found[layer][places] = np.clip(kept[layer], -65504, 65504)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _layers(model: Any) -> list[Any]:
    """The embedding and the blocks."""
    from torch.nn import ModuleList

    count = model.config.num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, ModuleList) and len(m) == count]
    if not lists:
        raise StatesError(f"{type(model).__name__} has no list of {count} layers to hook into")
    return [model.get_input_embeddings(), *lists[0]]


def fingerprint(
    folder: Path, texts: Sequence[Encoded], sites: Sequence[Site], layers: Sequence[int]
) -> str:
    """Changes with anything the states depend on. Weights count by name, size and time."""
    weights = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.glob("*.safetensors"))
    ]
    read = sorted({site.trace for site in sites})
    where = [(site.trace, site.index) for site in sites]
    config = (folder / "config.json").read_text(encoding="utf-8")
    return digest([config, weights, [texts[one].ids for one in read], where, list(layers)])


def save(file: Path, states: States, mark: str) -> None:
    """Write ``states``, replacing the file only once all is written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    with part.open("wb") as out:
        arrays: dict[str, Any] = {f"layer_{layer}": one for layer, one in states.items()}
        np.savez(out, fingerprint=np.array(mark), **arrays)
    part.replace(file)


def load(file: Path, mark: str) -> States | None:
    """The states of ``file``, None where there is none.

    Raises:
        StatesError: it was made of something else, or is no such file.
    """
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if str(arrays["fingerprint"]) != mark:
                raise StatesError(
                    f"{file} holds states of another model, corpus, or choice of layers; name "
                    "another file by --states, or remove it"
                )
            names = [name for name in arrays.files if name.startswith("layer_")]
            return {int(name.removeprefix("layer_")): arrays[name] for name in names}
    except (OSError, KeyError) as error:
        raise StatesError(f"{file} holds no states: {error}") from error
