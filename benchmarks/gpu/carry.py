"""Collect what a machine without network needs for the checks: FlashInfer without the kernels that
they do not use, and its one compiled requirement.

    python benchmarks/gpu/carry.py [--to build/gpu] [--python 3.12]

Writes ``TO/site.zip``, which ``run.sh`` unpacks, from the FlashInfer installed here. Kernels are
compiled where they run, by FlashInfer, on first use: that machine needs nvcc, a C++ compiler,
ninja, torch and numpy.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Sources of kernels that attention does not use; what stands in data/csrc itself is kept.
DROPPED_DATA = ("experimental", "moe_ep", "fused_moe/backends")
REQUIREMENT = "apache-tvm-ffi"


def kept(package: Path) -> Iterator[Path]:
    """Files of FlashInfer that are carried, relative to the package."""
    for file in sorted(package.rglob("*")):
        name = file.relative_to(package)
        if not file.is_file() or "__pycache__" in name.parts:
            continue
        place = name.as_posix()
        if place.startswith("data/csrc/") and len(name.parts) > 3:
            continue
        if place.startswith(DROPPED_DATA) and file.suffix != ".py":
            continue
        yield name


def carry(package: Path, archive: zipfile.ZipFile) -> None:
    """Pack what is kept."""
    for name in kept(package):
        archive.write(package / name, f"{package.name}/{name.as_posix()}")


def fetch_requirement(archive: zipfile.ZipFile, python: str) -> None:
    """Pack FlashInfer's compiled requirement, for the Python of the other machine.

    Raises:
        SystemExit: where pip cannot be run or finds no wheel.
    """
    pip = shutil.which("pip")
    if pip is None:
        raise SystemExit("pip is not on PATH, and the wheel of apache-tvm-ffi comes by it")
    version = importlib.metadata.version(REQUIREMENT)
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28)]
    command = [pip, "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, *(f"--platform={name}" for name in platforms)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*command, "-d", folder, f"{REQUIREMENT}=={version}"], check=False)
        if done.returncode:
            raise SystemExit(f"pip found no {REQUIREMENT} {version} for Python {python} on Linux")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as inside:
            for name in inside.namelist():
                archive.writestr(name, inside.read(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--python", default="3.12", help="of the machine with the GPU")
    options = parser.parse_args()
    found = importlib.util.find_spec("flashinfer")
    if found is None or found.origin is None:
        raise SystemExit("flashinfer is not installed here: pip install flashinfer-python==0.7.2")
    options.to.mkdir(parents=True, exist_ok=True)
    packed = options.to / "site.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        carry(Path(found.origin).parent, archive)
        fetch_requirement(archive, options.python)
    print(f"{packed}: {packed.stat().st_size / 2**20:.0f} MiB, for Python {options.python}")


if __name__ == "__main__":
    main()
