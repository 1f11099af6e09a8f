"""The wheel and the sdist that hatchling builds, and the wheel at work in a clean environment."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from house.source import PACKAGE, ROOT
from markdown_it import MarkdownIt
from packaging.metadata import Metadata

from obverse import __version__, methods

pytestmark = pytest.mark.slow

BESIDE_CODE = {"py.typed", "assets/base/model.safetensors", "report/page.css", "report/page.js", "report/page.html"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
CACHES = re.compile(r"(^|/)(__pycache__|\.venv[^/]*|runs|build|dist|\.[a-z]+_cache|\.hypothesis)/|\.pyc$")
OPTIONS = ["--max_steps", "2", "--prompts_per_step", "4", "--num_problems", "16", "--dataset", "arithmetic:1-2"]


@dataclass(frozen=True)
class Packages:
    wheel: Path
    sdist: Path

    def wheel_files(self) -> dict[str, bytes]:
        with zipfile.ZipFile(self.wheel) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def sdist_files(self) -> set[str]:
        """The files, without the folder `obverse-VERSION` that holds all of them."""
        with tarfile.open(self.sdist) as archive:
            names = [member.name for member in archive.getmembers() if member.isfile()]
        assert {name.partition("/")[0] for name in names} == {f"obverse-{__version__}"}
        return {name.partition("/")[2] for name in names}


def run(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """The standard output of a program, which must succeed."""
    result = subprocess.run([*map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"{words}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def build(source: Path, folder: Path, *targets: str) -> None:
    """Build with the hatchling of this environment: no index and no other environment is needed."""
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, *(f"-t{target}" for target in targets), cwd=source)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "sdist", "wheel")
    assert len(list(folder.iterdir())) == 2
    return Packages(*folder.glob("*.whl"), *folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def metadata(packages: Packages) -> Metadata:
    """The wheel's METADATA; a field that breaks the core metadata specification is an error."""
    files = packages.wheel_files()
    return Metadata.from_email(files[f"obverse-{__version__}.dist-info/METADATA"], validate=True)


def test_wheel_holds_the_package_and_nothing_else(packages: Packages) -> None:
    files = packages.wheel_files()
    info = f"obverse-{__version__}.dist-info"
    source = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    source = {name for name in source if not CACHES.search(name)}
    assert source >= {f"obverse/{name}" for name in BESIDE_CODE}
    assert files.keys() - source == {
        f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }
    assert not source - files.keys()
    assert not [name for name, content in files.items() if str(ROOT).encode() in content], "paths of this machine"
    assert b"obverse = obverse.cli.main:main" in files[f"{info}/entry_points.txt"]
    assert b"Tag: py3-none-any" in files[f"{info}/WHEEL"]


def test_sdist_builds_the_same_wheel(packages: Packages, tmp_path: Path) -> None:
    files = packages.sdist_files()
    assert not [name for name in files if CACHES.search(name)]
    needed = ("CHANGELOG.md", "CITATION.cff", "Dockerfile", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml")
    assert files >= {*needed, "tests/conftest.py", "examples/one_file.py", "docs/idea.md"}
    with tarfile.open(packages.sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    build(tmp_path / "source" / f"obverse-{__version__}", tmp_path / "dist", "wheel")
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name == packages.wheel.name
    assert hashlib.sha256(wheel.read_bytes()).digest() == hashlib.sha256(packages.wheel.read_bytes()).digest()


def test_sdist_has_what_its_tests_read(packages: Packages) -> None:
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / ".github").rglob("*.*") if path.is_file()}
    assert templates and not {*templates, ".dockerignore"} - packages.sdist_files()


def test_metadata(metadata: Metadata) -> None:
    assert (metadata.name, str(metadata.version)) == ("obverse", __version__)
    assert (metadata.license_expression, metadata.license_files) == ("Apache-2.0", ["LICENSE"])
    minors = {int(text) for text in re.findall(r"Python :: 3\.(\d+)", "\n".join(metadata.classifiers or []))}
    assert metadata.requires_python is not None
    assert minors == {minor for minor in range(30) if f"3.{minor}.1" in metadata.requires_python}
    extras = {*metadata.provides_extra}
    assert extras == {*EXTRAS}
    for requirement in metadata.requires_dist:
        marker = requirement.marker
        assert marker is None or any(marker.evaluate({"extra": extra}) for extra in extras), requirement


def test_long_description_is_the_readme(metadata: Metadata, packages: Packages) -> None:
    assert metadata.description_content_type == "text/markdown"
    text = metadata.description or ""
    assert text == (ROOT / "README.md").read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert {"heading_open", "table_open", "fence", "code_block"} <= {token.type for token in tokens}
    links = [child.attrs.get("href", child.attrs.get("src")) for token in tokens for child in token.children or []]
    files = [str(link).partition("#")[0] for link in links if link and not str(link).startswith(("http", "#"))]
    assert len(files) > 20
    assert not {*files} - packages.sdist_files()


def test_wheel_runs_in_a_clean_environment(packages: Packages, tmp_path: Path) -> None:
    """Only obverse is installed: a path file adds the libraries of this environment, but not its obverse."""
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", "--no-index", packages.wheel, cwd=tmp_path)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("".join(f"{path}\n" for path in libraries))

    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    obverse = python.with_name("obverse")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def command(*words: str | Path) -> str:
        return run(obverse, *words, cwd=elsewhere, env=env)

    where = run(python, "-c", "import obverse; print(obverse.__file__)", cwd=elsewhere, env=env)
    assert Path(where.strip()) == site / "obverse" / "__init__.py"
    assert command("--version").strip() == f"obverse {__version__}"
    assert all(name in command("methods") for name in ("sft", "grpo", "hpt")) and len(methods.names()) > 30
    command("train", "sft", *OPTIONS, "--output_dir", "run")
    command("eval", "run", "--dataset", "arithmetic:1", "--num_problems", "4", "--num_generations", "2", "--k", "1")
    (elsewhere / "run" / "report.html").unlink()
    command("report", "run")
    page = (elsewhere / "run" / "report.html").read_text(encoding="utf-8")
    assert "<style>" in page and "<script" in page
