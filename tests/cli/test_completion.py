"""The completion scripts, in real shells: what is offered fits the command, the method and the option."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from obverse.cli.commands import COMMANDS, SchemaCommand
from obverse.cli.completion import BESIDE_SCHEMA, BY_METHOD, SCHEMAS, SHELLS, completions
from obverse.cli.completion_scripts import CommandWords
from obverse.cli.main import main
from obverse.config.sources import is_option
from obverse.config.train import TrainConfig
from obverse.methods import names

# a command line, whose last word is completed: what is offered
LINES: Mapping[str, list[str]] = {
    "obverse tra": ["train"],
    "obverse train hp": ["hpt"],
    "obverse train hpt --ga": ["--gate", "--gate_type"],
    "obverse train sft --ga": [],
    "obverse train sft --lr_s": ["--lr_scheduler_type"],
    "obverse train hpt --lr_scheduler_type co": ["constant", "constant_with_warmup", "cosine"],
    "obverse train hpt --gate_type ": ["soft", "switch"],
    "obverse weigh grpo --epsilon_": ["--epsilon_high"],
    "obverse analyze shift --num_t": ["--num_tokens"],
    "obverse grade num": ["numeric"],
    "obverse completion ": ["bash", "fish", "zsh"],
    "obverse eval runs/b": ["runs/b-1"],
    "obverse compare sft --dataset x hp": ["hpt"],
}


@pytest.fixture(scope="module")
def words() -> dict[str, CommandWords]:
    return completions()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the runs a-1 and b-1, and a folder that holds no run."""
    for name in ("a-1", "b-1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("")
    (tmp_path / "runs" / "b-none").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answers(shell: str, script: str, folder: Path) -> list[list[str]]:
    """What a shell offers for each of LINES; `script` prints a line per command line, from the file `completion`."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    options = {"bash": ["--noprofile", "--norc"], "zsh": ["-f"], "fish": ["-N"]}[shell]
    (folder / "test").write_text(script)
    result = subprocess.run([program, *options, "test"], capture_output=True, text=True, timeout=60, cwd=folder)
    assert result.returncode == 0 and not result.stderr, result.stderr
    return [sorted(line.split()) for line in result.stdout.splitlines()]


def test_bash(words: dict[str, CommandWords], folder: Path) -> None:
    (folder / "completion").write_text(SHELLS["bash"](words))
    lines = ["source completion", "c() { COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _obverse; echo ${COMPREPLY[@]}; }"]
    for line in LINES:
        quoted = " ".join(f"'{word}'" for word in line.split(" "))
        lines += [f"COMP_WORDS=({quoted})", "c"]
    assert answers("bash", "\n".join(lines), folder) == [*LINES.values()]
    lines = [
        "source completion",
        "COMP_WORDS=(obverse train hpt --dtype = b) COMP_CWORD=5",
        "_obverse",
        "echo $COMPREPLY",
    ]
    assert answers("bash", "\n".join(lines), folder) == [["bfloat16"]]


def test_zsh(words: dict[str, CommandWords], folder: Path) -> None:
    (folder / "completion").write_text(SHELLS["zsh"](words))
    lines = [
        "zmodload zsh/parameter; compdef() { }; _files() { }",
        "compadd() { shift; for word; do [[ $word == $PREFIX* ]] && print -n -- $word ' '; done }",  # zsh's own filters
        "compset() { PREFIX=${PREFIX#*=}; }",
        "source completion",
    ]
    for line in LINES:
        quoted = " ".join(f"'{word}'" for word in line.split(" "))
        lines.append(f"words=({quoted}); CURRENT=$#words; PREFIX=$words[-1]; _obverse; print")
    lines += ["words=(obverse train hpt --dtype=b); CURRENT=4; PREFIX=$words[-1]; _obverse; print"]
    assert answers("zsh", "\n".join(lines), folder) == [*LINES.values(), ["bfloat16"]]


def test_fish(words: dict[str, CommandWords], folder: Path) -> None:
    (folder / "completion").write_text(SHELLS["fish"](words))
    lines = ["source completion"]
    lines += [f"echo (complete -C '{line}' | string replace -r '\\t.*' '' | string match -v '*/')" for line in LINES]
    assert answers("fish", "\n".join(lines), folder) == [*LINES.values()]


def test_every_command_and_every_option_is_offered(words: dict[str, CommandWords]) -> None:
    assert set(words) == set(COMMANDS) and set(SCHEMAS) | set(BESIDE_SCHEMA) <= set(COMMANDS)
    plain = {name for name, command in COMMANDS.items() if not isinstance(command, SchemaCommand)}
    assert plain == set(SCHEMAS) | {"analyze", "explain", "weigh"}
    assert {name for name in TrainConfig.model_fields if is_option(TrainConfig, name)} <= set(words["train"].options)
    assert all(set(words[name].by_first) == set(names()) for name in BY_METHOD)
    assert words["train"].options["lr_scheduler_type"] and not words["train"].options["learning_rate"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_the_script(
    shell: str, words: dict[str, CommandWords], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("obverse.cli.completion.completions", lambda: words)
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert script == SHELLS[shell](words) and not re.search("@[A-Z]+@", script)
    assert main(["completion", "csh"]) == 2 and main(["completion"]) == 2
