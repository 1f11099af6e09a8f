"""Files beside the code: the supported Pythons, pinned versions, the Dockerfile, the citation and the templates."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from typing import Any

import pytest
import yaml
from house.source import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from obverse import __version__, methods
from obverse.cli.commands import COMMANDS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
UNPINNED = {"bitsandbytes"}  # CUDA only: no test runs it


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def instructions(name: str) -> list[list[str]]:
    """The words of every instruction of this name, without its flags."""
    lines = re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)
    return [[word for word in line.split() if not word.startswith("--")] for line in lines]


def test_pythons_are_the_same_everywhere() -> None:
    admitted = SpecifierSet(PROJECT["requires-python"])
    minors = [minor for minor in range(30) if admitted.contains(f"3.{minor}.1")]
    classifiers = [int(minor) for minor in re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["classifiers"]))]
    assert classifiers == minors
    first, last = re.search(r"not \(3, (\d+)\) <= .* <= \(3, (\d+)\)", text("Makefile")).groups()  # type: ignore[union-attr]
    assert (int(first), int(last)) == (minors[0], minors[-1])
    tools = tomllib.loads(text("pyproject.toml"))["tool"]
    assert tools["ruff"]["target-version"] == f"py3{minors[0]}" and tools["mypy"]["python_version"] == f"3.{minors[0]}"
    (image,) = re.findall(r"^ARG PYTHON=3\.(\d+)$", DOCKERFILE, re.MULTILINE)
    assert int(image) in minors


def test_every_requirement_has_a_tested_version() -> None:
    lines = [line for line in text("constraints.txt").splitlines() if line and not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines), "a package is pinned twice"
    for requirement in map(Requirement, chain(PROJECT["dependencies"], *EXTRAS.values())):
        if requirement.name not in {"obverse", *UNPINNED}:
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_dockerfile_copies_what_exists_and_ignores_the_rest() -> None:
    copied = {word for words in instructions("COPY") for word in words[:-1] if not word.startswith("/")}
    assert copied and not [name for name in copied if not (ROOT / name).exists()]
    context = {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
    assert context == copied


def test_dockerfile_installs_tested_versions_for_a_plain_user() -> None:
    (extras,) = re.findall(r"^ARG EXTRAS=(.+)$", DOCKERFILE, re.MULTILINE)
    assert {*extras.split(",")} <= {*EXTRAS}
    installs = [words for words in instructions("RUN") if "install" in words and "pip" in words]
    assert len(installs) == 2 and all("/opt/obverse/constraints.txt" in words for words in installs)
    assert instructions("USER") == [["1000"]] and "useradd --create-home --uid 1000 " in DOCKERFILE
    assert (
        DOCKERFILE.index("\nRUN useradd") < DOCKERFILE.index("\nUSER")
        and "RUN" not in DOCKERFILE.partition("\nUSER")[2]
    )
    assert instructions("ENTRYPOINT") == [['["obverse"]']]


def test_citation() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert (citation["version"], citation["license"]) == (__version__, PROJECT["license"])
    sections = [line for line in text("CHANGELOG.md").splitlines() if line.startswith("## ")]
    released = next(line for line in sections if line != "## Unreleased")
    assert released == f"## {__version__} - {citation['date-released']}"
    assert citation["authors"] == PROJECT["authors"]
    papers = citation["references"]
    assert papers and all(paper.keys() >= {"type", "title", "authors", "url"} for paper in papers)
    cited = "\n".join(make.__doc__ or "" for make in map(methods.find, methods.names()))
    assert not [paper["url"] for paper in papers if paper["url"] not in cited], "a paper that no method names"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_issue_forms(path: Any) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form.keys() >= {"name", "description", "body"}
    assert {field["type"] for field in form["body"]} <= {"input", "textarea", "dropdown", "checkboxes", "markdown"}
    names = [field["id"] for field in form["body"]]
    assert len(names) == len({*names}) and all(field["attributes"]["label"] for field in form["body"])
    commands = re.findall(r"`obverse (\w+)", str(form))
    assert {*commands} <= {*COMMANDS}


def test_the_forms_ask_for_what_answers_need() -> None:
    required = {
        path.stem: {
            field["id"]
            for field in yaml.safe_load(path.read_text(encoding="utf-8"))["body"]
            if field.get("validations", {}).get("required")
        }
        for path in TEMPLATES
    }
    assert required == {"bug": {"command", "output", "expected", "doctor"}, "method": {"paper", "objective", "row"}}


def test_pull_request_template_names_what_exists() -> None:
    template = text(".github/PULL_REQUEST_TEMPLATE.md")
    targets = re.findall(r"`make ([\w-]+)`", template)
    assert len(targets) == 3 and all(re.search(rf"^{target}:", text("Makefile"), re.MULTILINE) for target in targets)
    assert all((ROOT / name).exists() for name in re.findall(r"`(tests/\w+/)`", template))
