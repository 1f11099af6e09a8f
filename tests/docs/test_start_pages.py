"""The pages of docs/start work as they are written: their files, commands and Python, in order, at small sizes."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from house.source import ROOT

from obverse.cli.main import main
from recipes.site import navigation

pytestmark = pytest.mark.slow

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NOT_RUN = ("pip install", "obverse doctor", "obverse serve-vllm", "--sampler vllm")  # installs, probes or needs a GPU
SMALLER = {  # appended: of an option given twice the last value counts
    "train": "--max_steps 2",
    "eval": "--num_problems 2",
    "compare": "--budget 2K --num_test_problems 2 --num_generations_test 2 --k 1,2 --num_validation_problems 2",
}


def blocks() -> Iterator[tuple[str, str, str, str]]:
    """Page, language, title and text of every code block, in the order in which the pages are read."""
    values = navigation.yaml.safe_load(navigation.CONFIGURATION.read_text(encoding="utf-8"))
    for path in next(item["Start"] for item in values["nav"] if "Start" in item):
        for language, title, text in BLOCK.findall((ROOT / "docs" / path).read_text(encoding="utf-8")):
            yield path, language, title, text


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a block, at small sizes."""
    for line in text.splitlines():
        if any(words in line for words in NOT_RUN):
            continue
        words = shlex.split(line)
        size = SMALLER.get(words[words.index("obverse") + 1], "")
        size = "--max_steps 3" if "--resume_from_checkpoint" in words else size
        yield [*words, *size.split()]


def run_command(words: list[str]) -> int:
    """Run a command: in this process, or by its launcher if it starts several; returns the exit code."""
    if words[0] == "obverse":
        return main(words[1:])
    launcher, *rest = words
    assert launcher == "torchrun"
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", *rest], timeout=300).returncode


def smaller(text: str) -> str:
    """A Python block with few steps and problems."""
    text = re.sub(r"\b(max_steps|num_problems)=\d+", r"\1=2", text)
    return text.replace('budget="60K", seeds=2', 'budget="2K", seeds=1, num_test_problems=2, num_validation_problems=2')


def test_pages_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.syspath_prepend(str(tmp_path))
    num_run = 0
    for page, language, title, text in blocks():
        if title:
            Path(title).write_text(text, encoding="utf-8")
        elif language == "python":
            Path("block.py").write_text(smaller(text), encoding="utf-8")
            runpy.run_path("block.py", run_name="__main__")
            num_run += 1
        for words in commands(text) if language == "sh" else ():
            assert run_command(words) == 0, f"{page}: {shlex.join(words)}"
            num_run += 1
    assert num_run > 25
