"""Images, manifests, workflow and papers: they can be read, name what exists, and agree with setup.

No image is built and no cluster is asked; docs/deploy.md says so.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import sglang_multiverse
from sglang_multiverse.cli.serve import GRACE

from .docs import commands
from .test_packaging import ROOMS

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILES = ["Dockerfile", "Dockerfile.cpu"]
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PAPERS = ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "docs/deploy.md"]
MANIFEST = ROOT / "deploy" / "kubernetes" / "multiverse.yaml"
#: Programs that the images our Dockerfiles begin with have, and ours.
PROGRAMS = {"pip", "python3", "ls", "useradd", "multiverse"}
VERSION = sglang_multiverse.__version__


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def everything() -> dict[str, str]:
    """Text of every file that this module is about, by name."""
    names = [*DOCKERFILES, *PAPERS, "compose.yaml", "CITATION.cff", ".dockerignore"]
    found = [ROOT / name for name in names]
    found += [one for one in (ROOT / ".github").rglob("*") if one.is_file()]
    found += [one for one in (ROOT / "deploy").rglob("*") if one.is_file()]
    return {str(one.relative_to(ROOT)): one.read_text(encoding="utf-8") for one in found}


def setup(pattern: str) -> str:
    found = re.search(pattern, read("setup.py"))
    assert found, pattern
    return found[1]


SGLANG = setup(r'"sglang==([\d.]+)"')
REPOSITORY = setup(r'REPOSITORY = "(.+)"')
PYTHONS = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', read("setup.py")))


class Unique(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, where YAML keeps the last."""


def _mapping(loader: Unique, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    assert len(keys) == len(set(keys)), f"{node.start_mark}: a key stands twice"
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node, deep=True))


Unique.add_constructor("tag:yaml.org,2002:map", _mapping)


def documents(name: str) -> list[Any]:
    return list(yaml.load_all(read(name), Loader=Unique))


def only(name: str) -> Any:
    (document,) = documents(name)
    return document


@pytest.mark.parametrize(
    "name", [name for name in everything() if name.endswith((".yaml", ".yml", ".cff"))]
)
def test_it_can_be_read(name: str) -> None:
    assert all(isinstance(document, dict) for document in documents(name))


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("compose-spec", ["compose.yaml"]),
        ("github-workflows", [".github/workflows/ci.yml"]),
        ("github-issue-forms", [one for one in TEMPLATES if one.stem != "config"]),
        ("github-issue-config", [ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml"]),
        ("citation-file-format", ["CITATION.cff"]),
    ],
)
def test_it_is_what_its_readers_take(schema: str, files: list[Any]) -> None:
    """By the schemas they publish, as check-jsonschema brings them."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run(
        [*command, *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_versions_agree_with_setup() -> None:
    """Of the package, of SGLang and of Python, wherever a file names one."""
    named = 0
    for name, text in everything().items():
        for version, flavour in re.findall(r"sglang-multiverse:([\w.]+)-([\w.]+)", text):
            assert version == VERSION, name
            assert flavour in ("cpu", f"sglang{SGLANG}"), name
            named += 1
        for tag in re.findall(r"lmsysorg/sglang:(\S+?)[`\s]", text):
            assert tag == f"v{SGLANG}", name
            named += 1
        for version in re.findall(r"\bpython:(3\.\d+)", text):
            assert version in PYTHONS, name
            named += 1
        for version in re.findall(r"app\.kubernetes\.io/version: (\S+)", text):
            assert version == VERSION, name
            named += 1
    assert named > 15
    said = re.search(r"Python (3\.\d+) or (3\.\d+)", read("CONTRIBUTING.md"))
    assert said
    assert set(said.groups()) == PYTHONS


def test_the_address_of_the_repository_is_that_of_setup() -> None:
    for name, text in everything().items():
        for url in re.findall(r"https://github\.com/[\w-]+/sglang-multiverse\b", text):
            assert url == REPOSITORY, name


def instructions(name: str) -> Iterator[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", read(name), flags=re.MULTILINE).replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip():
            keyword, _, rest = line.partition(" ")
            yield keyword, " ".join(rest.split())


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_uses_what_exists(name: str) -> None:
    stages: set[str] = set()
    for keyword, rest in instructions(name):
        assert keyword in {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "EXPOSE", "USER"} | {
            "ENTRYPOINT",
            "CMD",
            "HEALTHCHECK",
        }
        if keyword == "FROM" and " AS " in rest:
            stages.add(rest.rpartition(" ")[2])
        if keyword == "COPY":
            stage = re.match(r"--from=(\w+)", rest)
            assert (stage and stage[1] in stages) or rest == ". ."
        if keyword == "RUN":
            inner = re.findall(r"\$\((.*?)\)", rest)
            for part in [*rest.split(" && "), *inner]:
                words = shlex.split(part)
                assert words[0] in PROGRAMS, words
                assert commands.unknown(words) == []
    extras = set(re.findall(r"\[([a-z,]+)\]\"$", read(name), re.MULTILINE))
    assert extras <= {"serve"}


def command_of(name: str) -> list[str]:
    """ENTRYPOINT of the last stage."""
    entry = [rest for keyword, rest in instructions(name) if keyword == "ENTRYPOINT"][-1]
    words: list[str] = yaml.safe_load(entry)
    return words


def test_commands_of_the_images_exist() -> None:
    assert commands.unknown(command_of("Dockerfile")) == []
    default = [rest for keyword, rest in instructions("Dockerfile.cpu") if keyword == "CMD"][-1]
    assert commands.unknown([*command_of("Dockerfile.cpu"), *yaml.safe_load(default)]) == []
    for service in only("compose.yaml")["services"].values():
        file = service["build"]["dockerfile"]
        assert file in DOCKERFILES
        assert commands.unknown([*command_of(file), *service.get("command", [])]) == []


@pytest.mark.parametrize("name", DOCKERFILES)
def test_commands_in_the_heads_of_dockerfiles_exist(name: str) -> None:
    """What follows the image's name in ``docker run``."""
    head = read(name).partition("\nFROM")[0].replace("\\\n#", "")
    runs = [
        shlex.split(line.lstrip("# "), comments=True)
        for line in head.splitlines()
        if line.startswith("#   docker run")
    ]
    assert runs
    for words in runs:
        image = next(i for i, word in enumerate(words) if word.startswith("sglang-multiverse:"))
        assert commands.unknown([*command_of(name), *words[image + 1 :]]) == []


def test_what_an_image_is_built_from_is_let_in() -> None:
    lines = read(".dockerignore").splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert let_in == {*ROOMS, "setup.py", "pyproject.toml", "README.md", "LICENSE"}
    assert all((ROOT / name).exists() for name in let_in)


def health_timeout() -> int:
    """Seconds after which SGLang's ``/health`` gives up."""
    spec = importlib.util.find_spec("sglang")
    if spec is None or spec.origin is None:
        pytest.skip("the serve extra is not installed")
    source = Path(spec.origin).parent / "srt" / "entrypoints" / "http_server.py"
    found = re.search(r'"SGLANG_HEALTH_CHECK_TIMEOUT", (\d+)', source.read_text(encoding="utf-8"))
    assert found
    return int(found[1])


def test_who_asks_for_health_waits_for_the_answer() -> None:
    """And whoever ends a server leaves it the time it takes."""
    slow = health_timeout()
    compose = only("compose.yaml")["services"]
    assert int(compose["cpu"]["healthcheck"]["timeout"].rstrip("s")) > slow
    (check,) = (rest for keyword, rest in instructions("Dockerfile") if keyword == "HEALTHCHECK")
    waits = re.search(r"--timeout=(\d+)s", check)
    assert waits
    assert int(waits[1]) > slow
    for service in (compose["cpu"], compose["gpu"]):
        assert int(service["stop_grace_period"].rstrip("s")) > GRACE
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    pod = kinds()["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > GRACE
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = pod["containers"][0][probe]
        assert asked["httpGet"] == {"path": "/health", "port": "http"}
        assert slow < asked["timeoutSeconds"] <= asked["periodSeconds"]


def kinds() -> dict[str, Any]:
    return {one["kind"]: one for one in documents(str(MANIFEST.relative_to(ROOT)))}


def test_parts_of_the_kubernetes_example_fit() -> None:
    found = kinds()
    assert found.keys() == {"PersistentVolumeClaim", "Deployment", "Service"}
    spec = found["Deployment"]["spec"]
    template = spec["template"]
    (container,) = template["spec"]["containers"]
    labels = template["metadata"]["labels"].items()
    assert spec["selector"]["matchLabels"].items() <= labels
    assert found["Service"]["spec"]["selector"].items() <= labels
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == ports.keys()
    served = command_of("Dockerfile")
    assert str(ports["http"]) == served[served.index("--port") + 1]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports["http"])
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == found["PersistentVolumeClaim"]["metadata"]["name"]


def test_arguments_of_the_kubernetes_example_exist() -> None:
    (container,) = kinds()["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert commands.unknown([*command_of("Dockerfile"), *container["args"]]) == []
    given = {one["name"] for one in container["env"]}
    assert set(re.findall(r"\$\((\w+)\)", " ".join(container["args"]))) <= given
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--tp-size={gpus}" in container["args"]


def test_the_workflow_runs_what_is_there() -> None:
    workflow = only(".github/workflows/ci.yml")
    assert workflow[True].keys() == {"push", "pull_request", "schedule"}, "YAML reads `on` as true"
    assert set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"]) == PYTHONS
    runs = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    assert ".ci/run" in runs
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    files = re.findall(r"docker build -f (\S+)", "\n".join(runs))
    assert files
    assert set(files) <= set(DOCKERFILES)


def test_the_citation_is_of_this_version() -> None:
    cited = only("CITATION.cff")
    assert cited["version"] == VERSION
    assert cited["license"] == setup(r'license_expression="(.+?)"')
    assert cited["repository-code"] == REPOSITORY
    assert [one["name"] for one in cited["authors"]] == [setup(r'\bauthor="(.+?)"')]
    (paper,) = cited["references"]
    assert paper["url"] == setup(r'"Paper": "(.+?)"')
    assert paper["identifiers"][0]["value"] == "arXiv:" + paper["url"].rpartition("/")[2]


@pytest.mark.parametrize("name", PAPERS)
def test_flags_links_and_files_in_the_papers_exist(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", read(name), flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]+)`", text):
        words = shlex.split(span.replace("…", "X"))
        if words[0] == "multiverse":
            assert commands.unknown(words) == [], span
        elif words[0].startswith("--") and not words[0].startswith("--ipc"):
            assert commands.unknown(["multiverse", "serve", *words]) == [], span
        elif re.fullmatch(r"[\w.]+(/[\w.*-]+)+\.(py|md|yaml)", span) and "*" not in span:
            assert (ROOT / span).exists(), span
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in link:
            assert ((ROOT / name).parent / link).exists(), link
