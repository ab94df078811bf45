"""Packaging: maps the top-level rooms of the repository into one namespace, ``sglang_multiverse``,
so that nothing named ``training`` or ``patches`` lands in a user's site-packages."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
REPOSITORY = "https://github.com/sglang-multiverse/sglang-multiverse"
BRANCH = "main"

ROOMS = {
    "sglang_multiverse": "sglang_multiverse",
    "sglang_multiverse.training": "training",
    "sglang_multiverse.data_pipeline": "data_pipeline",
    "sglang_multiverse.patches": "patches",
}

# The versions this release was built and verified on; widened only by running the suite.
TORCH = "torch>=2.14.1,<2.15"
TRANSFORMERS = "transformers>=5.19,<5.20"
DATASETS = "datasets>=5.2,<6"

EXTRAS = {
    "serve": ["sglang==0.5.23"],
    "train": [
        TORCH,
        TRANSFORMERS,
        DATASETS,
        "trl==1.16.0",
        "peft>=0.21.2,<0.22",
        "accelerate>=1.15",
        "httpx>=0.28",
        "math-verify[antlr4_13_2]>=0.9,<0.10",
        "rapidfuzz>=3.14",
        "matplotlib>=3.10",
    ],
    "data": [
        DATASETS,
        "openai>=2.8",  # SGLang pins openai 2.8.0
        "pydantic>=2.11",
        "pyyaml>=6",
        "stamina>=26.1",
        "rapidfuzz>=3.14",
        "math-verify[antlr4_13_2]>=0.9,<0.10",
        "matplotlib>=3.10",
        "scikit-learn>=1.7",
    ],
    "eval": [
        "filelock>=3.12",
        "inspect-ai>=0.3.285,<0.4",
        "httpx>=0.28",
        "math-verify[antlr4_13_2]>=0.9,<0.10",
        DATASETS,
        "matplotlib>=3.10",
        "pydantic>=2.11",
        "pyyaml>=6",
        "rapidfuzz>=3.14",
        "scipy>=1.14",
    ],
    "ifeval": ["if-verifiable>=0.1.2,<0.2"],
    "ray": ["ray[data]>=2.60"],
    "dev": [
        "build>=1.2",
        "check-jsonschema>=0.33",
        "httpx>=0.28",
        "hypothesis>=6.100",
        "mkdocs>=1.6.1,<2",
        "ipykernel>=7",
        "mypy>=1.15",
        "nbclient>=0.10",
        "nbformat>=5.10",
        "playwright>=1.50",
        "pre-commit>=4",
        "pytest>=8.3",
        "pytest-timeout>=2.3",
        "ruff>=0.14",
        "setuptools>=77",
        "sglang-router>=0.3.2,<0.4",
        "tokenizers>=0.22",
    ],
}

#: What the page of ``multiverse show`` is made of.
WEB = ("html", "js", "css")


def version() -> str:
    """``__version__`` of the package, read without importing it."""
    text = (ROOT / "sglang_multiverse" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError("sglang_multiverse/__init__.py defines no __version__")
    return found.group(1)


def packages() -> list[str]:
    """Every package of every room, sub-packages included."""
    return [
        name
        for package, folder in ROOMS.items()
        for name in [package, *(f"{package}.{sub}" for sub in find_packages(str(ROOT / folder)))]
    ]


#: The target of a link or picture, in Markdown and in HTML.
_TARGET = re.compile(
    r"""(?P<before>(?P<image>!\[[^\]]*\]\()|\]\(|\b(?P<attribute>href|src|srcset)=")"""
    r"""(?P<target>[^)"\s]+)"""
)


def absolute(text: str) -> str:
    """``text`` with links to files of the repository made links to where it is kept."""

    def link(match: re.Match[str]) -> str:
        path, hash_sign, anchor = match["target"].partition("#")
        file = ROOT / path
        if not path or "://" in path or not file.exists():
            return match[0]
        picture = match["image"] or match["attribute"] in ("src", "srcset")
        kind = "raw" if picture else "tree" if file.is_dir() else "blob"
        place = f"{REPOSITORY}/{kind}/{BRANCH}/{path.rstrip('/')}"
        return f"{match['before']}{place}{hash_sign}{anchor}"

    return _TARGET.sub(link, text)


def long_description() -> str:
    readme = ROOT / "README.md"
    return absolute(readme.read_text(encoding="utf-8")) if readme.exists() else ""


setup(
    name="sglang-multiverse",
    version=version(),
    description="Natively parallel generation (fork, join) for stock SGLang, and the trainer and "
    "data pipeline that share its definition of structure.",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="sglang-multiverse developers",
    url=REPOSITORY,
    project_urls={
        "Documentation": f"{REPOSITORY}/tree/{BRANCH}/docs",
        "Source": REPOSITORY,
        "Issues": f"{REPOSITORY}/issues",
        "Changelog": f"{REPOSITORY}/blob/{BRANCH}/CHANGELOG.md",
        "Paper": "https://arxiv.org/abs/2506.09991",
    },
    keywords=[
        "sglang",
        "llm",
        "inference",
        "parallel generation",
        "fork-join",
        "reasoning",
        "multiverse",
        "trl",
    ],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.13",
    package_dir=ROOMS,
    packages=packages(),
    package_data={
        "sglang_multiverse": ["py.typed", "tiny/*model/**", *(f"view/*.{x}" for x in WEB)],
        "sglang_multiverse.training": ["**/*.yaml"],
        "sglang_multiverse.data_pipeline": ["**/*.yaml", "**/*.md"],
    },
    install_requires=["numpy>=2.0", "rich>=14", "typer>=0.20"],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["multiverse = sglang_multiverse.cli:app"],
        "sglang.srt.plugins": ["multiverse = sglang_multiverse.patches.plugin:register"],
        "inspect_ai": ["sglang_multiverse = sglang_multiverse.evaluation.registry"],
        "sglang.srt.platforms": ["torch_cpu = sglang_multiverse.platform:activate"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Software Development :: Libraries :: Python Modules",
        "Typing :: Typed",
    ],
    zip_safe=False,
)
