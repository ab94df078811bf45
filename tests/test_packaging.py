"""What is published: an sdist that holds the repository, a wheel built from it, their metadata."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.specifiers import SpecifierSet

import sglang_multiverse

ROOMS = {
    "sglang_multiverse": "sglang_multiverse",
    "training": "sglang_multiverse/training",
    "patches": "sglang_multiverse/patches",
    "data_pipeline": "sglang_multiverse/data_pipeline",
}
NAME = f"sglang_multiverse-{sglang_multiverse.__version__}"
#: What a build adds to an sdist.
ADDED = {"PKG-INFO", "setup.cfg"}
#: What a working copy has that no one publishes.
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "out", "site")


@pytest.fixture(scope="module")
def source(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git does not ignore; of all files where there is no git."""
    folder = tmp_path_factory.mktemp("source") / "copy"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    if listed.returncode:
        shutil.copytree(repository, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        return folder
    for name in filter(None, listed.stdout.split("\0")):
        if (repository / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    workshop = tmp_path_factory.mktemp("workshop") / "copy"
    shutil.copytree(source, workshop)  # building leaves files behind
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(workshop)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    return built / f"{NAME}.tar.gz"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return built / f"{NAME}-py3-none-any.whl"


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Metadata:
    """Read strictly, as the index reads it."""
    text = zipfile.ZipFile(wheel).read(f"{NAME}.dist-info/METADATA")
    return Metadata.from_email(text, validate=True)


def files_under(folder: Path) -> set[str]:
    return {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()}


def test_an_sdist_holds_the_repository(source: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {one.name.removeprefix(f"{NAME}/") for one in archive if one.isfile()}
    inside = {name for name in names if not name.startswith("sglang_multiverse.egg-info/")}
    assert inside - ADDED == files_under(source)


def test_a_wheel_holds_every_file_of_the_rooms_and_nothing_else(source: Path, wheel: Path) -> None:
    """Recipes, prompts, pages and the tiny model as well as code."""
    expected = {
        f"{place}/{name}" for room, place in ROOMS.items() for name in files_under(source / room)
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    own = {name for name in names if not name.startswith(f"{NAME}.dist-info/")}
    assert own == expected
    assert f"{NAME}.dist-info/licenses/LICENSE" in names


def test_a_wheel_stays_small(wheel: Path) -> None:
    for name in ("model", "machines_model"):
        sizes = [
            info.file_size
            for info in zipfile.ZipFile(wheel).infolist()
            if info.filename.startswith(f"sglang_multiverse/tiny/{name}/")
        ]
        assert 2**20 < sum(sizes) <= 8 * 2**20
    assert wheel.stat().st_size <= 12 * 2**20  # two models


def test_an_installed_wheel_works_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"""
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__name__", "").lower()]
sys.path.insert(0, {str(tmp_path / "site")!r})
import sglang_multiverse, sglang_multiverse.training, sglang_multiverse.data_pipeline
import sglang_multiverse.text, sglang_multiverse.cli
for module in (sglang_multiverse, sglang_multiverse.training, sglang_multiverse.text):
    assert module.__file__.startswith({str(tmp_path / "site")!r}), module.__file__
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_metadata_are_complete(metadata: Metadata) -> None:
    assert metadata.name == "sglang-multiverse"
    assert str(metadata.version) == sglang_multiverse.__version__
    assert metadata.author == "sglang-multiverse developers"
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description_content_type == "text/markdown"
    urls = metadata.project_urls or {}
    assert {"Documentation", "Source", "Issues", "Changelog", "Paper"} <= urls.keys()
    assert all(url.startswith("https://") for url in urls.values())
    assert metadata.keywords


def test_classifiers_agree_with_the_versions_of_python(metadata: Metadata) -> None:
    said = {
        one.rpartition(" :: ")[2]
        for one in metadata.classifiers or []
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", one)
    }
    assert metadata.requires_python == SpecifierSet(">=3.11,<3.13")
    assert said == {f"3.{n}" for n in range(30) if f"3.{n}" in metadata.requires_python}


def test_links_of_the_description_lead_somewhere(source: Path, metadata: Metadata) -> None:
    """PyPI shows the README on its own page: links into the repository are spelled out."""
    text = metadata.description or ""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)|\b(?:href|src)=\"([^\"]+)\"", prose)
    links = {one or other for one, other in targets}
    assert links
    repository = str((metadata.project_urls or {})["Source"])
    for link in links:
        assert link.startswith(("https://", "#")), link
        place = re.fullmatch(rf"{repository}/(blob|tree|raw)/main/([^#]+)(#.*)?", link)
        if place:
            assert (source / place[2]).exists(), link
            assert (place[1] == "tree") == (source / place[2]).is_dir(), link


def test_rooms_of_this_test_are_those_of_the_setup(repository: Path) -> None:
    tree = ast.parse((repository / "setup.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ROOMS"
    )
    rooms = {folder: name.replace(".", "/") for name, folder in ast.literal_eval(value).items()}
    assert rooms == ROOMS
