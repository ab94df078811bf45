"""Collect what a machine without network needs to run a whole SGLang server with the plugin.

    python benchmarks/gpu/carry_server.py [--to build/gpu] [--python 3.12] [--built FOLDER]

Writes ``TO/server.zip``, which ``server.py`` unpacks: SGLang 0.5.23 from its wheel, without folders
that a text model does not reach; the packages it imports; the Python of sglang-kernel, over which
``standin/common_ops.py`` stands in for its compiled operators; FlashInfer as ``carry.py`` packs it.
``--built`` is a folder of FlashInfer's compiled modules (``NAME/NAME.so``, its ``cached_ops``),
which spare that machine minutes; without it they are compiled there.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from carry import ROOT
from carry import kept as flashinfer_kept

#: SGLang and what it imports on the way to a server, beside what images with torch, transformers
#: and aiohttp have. Nothing is resolved: each is named.
WHEELS = (
    "sglang==0.5.23",
    "annotated-doc",
    "annotated-types",
    "apache-tvm-ffi==0.1.11",
    "compressed-tensors==0.18.0",
    "dill==0.4.1",
    "distro==1.9.0",
    "fastapi==0.165.0",
    "gguf==0.19.0",
    "interegular==0.3.3",
    "jiter",
    "jsonschema",
    "jsonschema-specifications",
    "loguru",
    "msgspec==0.22.0",
    "openai==2.8.0",
    "opentelemetry-api",
    "orjson==3.13.0",
    "partial-json-parser==0.2.1.1.post7",
    "pybase64==1.5.1",
    "pydantic==2.14.4",
    "pydantic-core==2.50.5",
    "python-multipart",
    "pyzmq==27.3.0",
    "referencing",
    "rpds-py",
    "setproctitle==1.3.8",
    "sniffio",
    "starlette==1.10.0",
    "typing-inspection",
    "uvicorn==0.54.0",
    "watchfiles==1.3.0",
    "xgrammar==0.2.7",
)
#: Of SGLang's wheel: what serves images and video, its tests, and libraries built for torch 2.14.
DROPPED = (
    "sglang/multimodal_gen/",
    "sglang/test/",
    "sglang/kernels/jit/benchmark/",
)
DROPPED_LIBRARIES = ("sglang/srt/rust_extensions/", "sglang/srt/mem_cache/rust_tree_core/")
#: Of FlashInfer, beside what ``carry.py`` leaves out: kernels for other GPUs, and of its header
#: projects what no header needs.
SPARED = (
    "moe_ep/kernel_src/",
    "experimental/b12x/",
    *(f"data/cutlass/{name}/" for name in ("examples", "python", "tools", "test", "media", "docs")),
    *(f"data/cccl/{name}/" for name in ("python", "ci", "benchmarks", "docs", "examples", "c")),
    *(f"data/cccl/{name}/" for name in ("cub/test", "cub/benchmarks", "cub/examples")),
    *(f"data/cccl/{name}/" for name in ("thrust/testing", "thrust/examples", "thrust/benchmarks")),
    *(f"data/cccl/libcudacxx/{name}/" for name in ("test", "benchmarks", "examples")),
)
#: Imported on the way and not used by a server of text: empty modules.
EMPTY = {
    "IPython/__init__.py": "",
    "IPython/display.py": "HTML = display = None\n",
    "soundfile.py": "",
    "zstandard.py": "",
}
#: Packages whose versions SGLang asks for.
ASKED = ("flashinfer-python", "sglang-kernel")


def fetch(folder: Path, python: str) -> None:
    """Download the wheels.

    Raises:
        SystemExit: where pip cannot be run or finds no wheel.
    """
    pip = shutil.which("pip")
    if pip is None:
        raise SystemExit("pip is not on PATH, and the wheels come by it")
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (17, 24, 26, 27, 28, 34)]
    platforms += ["--platform=manylinux2014_x86_64"]
    command = [pip, "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, *platforms, "-d", str(folder), *WHEELS]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"pip found not every wheel for Python {python} on Linux")


def kept(name: str) -> bool:
    if name.startswith(DROPPED):
        return False
    return not (name.startswith(DROPPED_LIBRARIES) and name.endswith(".so"))


def pack_wheels(archive: zipfile.ZipFile, folder: Path) -> None:
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as inside:
            for name in filter(kept, inside.namelist()):
                if not name.endswith("/"):
                    archive.writestr(name, inside.read(name))


def pack_kernel_python(archive: zipfile.ZipFile) -> None:
    """The Python of sglang-kernel, from the one installed here."""
    found = importlib.util.find_spec("sgl_kernel")
    if found is None or found.origin is None:
        raise SystemExit("sglang-kernel is not installed here: pip install sglang==0.5.23")
    package = Path(found.origin).parent
    for file in sorted(package.rglob("*.py")):
        archive.write(file, f"sgl_kernel/{file.relative_to(package).as_posix()}")


def pack_flashinfer(archive: zipfile.ZipFile, package: Path) -> None:
    for name in flashinfer_kept(package):
        if not name.as_posix().startswith(SPARED):
            archive.write(package / name, f"flashinfer/{name.as_posix()}")


def pack_metadata(archive: zipfile.ZipFile) -> None:
    """Versions that SGLang asks for, and this project's entry points."""
    for name in (*ASKED, "sglang-multiverse"):
        found = importlib.metadata.distribution(name)
        folder = f"{name.replace('-', '_')}-{found.version}.dist-info"
        for file in ("METADATA", "entry_points.txt"):
            text = found.read_text(file)
            if text is not None:
                archive.writestr(f"{folder}/{file}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--python", default="3.12", help="of the machine with the GPU")
    parser.add_argument("--built", type=Path, help="FlashInfer's cached_ops, of the same arch")
    options = parser.parse_args()
    found = importlib.util.find_spec("flashinfer")
    if found is None or found.origin is None:
        raise SystemExit("flashinfer is not installed here: pip install flashinfer-python==0.7.2")
    options.to.mkdir(parents=True, exist_ok=True)
    packed = options.to / "server.zip"
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as archive,
        tempfile.TemporaryDirectory() as folder,
    ):
        fetch(Path(folder), options.python)
        pack_wheels(archive, Path(folder))
        pack_kernel_python(archive)
        pack_metadata(archive)
        pack_flashinfer(archive, Path(found.origin).parent)
        for name, text in EMPTY.items():
            archive.writestr(name, text)
        for library in sorted(options.built.glob("*/*.so")) if options.built else ():
            archive.write(library, f"flashinfer/data/aot/{library.stem}/{library.name}")
    print(f"{packed}: {packed.stat().st_size / 2**20:.1f} MiB, for Python {options.python}")


if __name__ == "__main__":
    main()
