"""The command line: what is fast, what is refused, what ends with which code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mechanisms import representatives_first

from obverse.cli import main as cli
from obverse.cli.commands import COMMANDS, load
from obverse.cli.main import main
from obverse.cli.parser import scan
from obverse.config.analyze import QUESTIONS
from obverse.config.eval import EvalConfig, RegradeConfig
from obverse.config.method_options import train_schema
from obverse.config.train import TrainConfig
from obverse.config.yaml_file import read
from obverse.errors import CheckpointError, DataError
from obverse.methods import find, names
from obverse.runtime.callbacks import Watcher

ROOT = str(Path(cli.__file__).parents[2])
STEP = Path(__file__).parents[1] / "data" / "step.json"
SLOW = ("torch", "transformers", "datasets", "numpy", "pyarrow")
REPORT_IMPORTS = f"""
import sys
from obverse.cli.main import main
main(sys.argv[1:])
print([name for name in {SLOW} if name in sys.modules])
"""


def python(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": ROOT, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, timeout=60, **options
    )


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs in an empty folder; what `main` does to the interpreter is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield


def stub(monkeypatch: pytest.MonkeyPatch, module: str, **members: Any) -> None:
    """A module in the place of a slow one."""
    made = ModuleType(module)
    vars(made).update(members)
    monkeypatch.setitem(sys.modules, module, made)


# What is fast


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["--version"],
        ["train", "hpt", "--help"],
        ["train", "hpt", "--learning_rat", "1"],
        ["methods"],
        ["explain", "grpo"],
        ["weigh", "grpo", "nothing.json"],
        ["analyze", "gradients", "embedded", "--methods", "nothing"],
    ],
)
def test_nothing_slow_is_imported(words: list[str]) -> None:
    result = python("-c", REPORT_IMPORTS, *words)
    assert result.stdout.endswith("[]\n"), result.stdout[-200:] + result.stderr


def test_the_module_is_the_command() -> None:
    result = python("-m", "obverse", "train", "hpt", "--learning_rat", "1e-4")
    assert result.returncode == 2
    assert result.stderr == "error: unknown option --learning_rat: did you mean --learning_rate?\n"
    assert result.stdout == ""


def test_every_name_that_is_loaded_late_exists() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (Path(ROOT) / "obverse" / "cli").glob("*.py")]
    targets = {target for text in texts for target in re.findall(r'"(obverse[\w.]*:\w+)"', text)}
    targets |= {f"obverse.analysis.{question}:{question}" for question in QUESTIONS}
    targets |= {f"{command.module}:run" for command in COMMANDS.values()}
    assert len(targets) > 30
    for target in targets:
        assert callable(load(target)) or target.endswith(":STANDINGS"), target


# Words


def test_options_in_every_spelling() -> None:
    words = ["hpt", "--num-generations=4", "--seed", "7", "--no-log-completions", "--max_steps", "-1"]
    words.append("--eval_dataset=--x")
    scanned = scan(words, train_schema(find("hpt")))
    assert scanned.positional == ["hpt"]
    assert scanned.given == {
        "num_generations": "4",
        "seed": "7",
        "log_completions": False,
        "max_steps": "-1",
        "eval_dataset": "--x",
    }


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--log_completions"], True),
        (["--log_completions", "true"], True),
        (["--log_completions", "False"], False),
        (["--log_completions=no"], "no"),
        (["--no-log_completions"], False),
        (["--no_log_completions"], False),
    ],
)
def test_flags_in_every_spelling(words: list[str], value: Any) -> None:
    scanned = scan([*words, "hpt"], TrainConfig)
    assert scanned.given == {"log_completions": value} and scanned.positional == ["hpt"]


def test_an_option_without_its_value_is_named() -> None:
    assert scan(["--seed"], TrainConfig).problems == ["--seed: needs a value"]
    assert scan(["--seed", "--model", "m"], TrainConfig).problems == ["--seed: needs a value"]
    assert scan(["--config"], TrainConfig, extra=("config",)).problems == ["--config: needs a value"]
    assert scan(["--foo"], TrainConfig).given == {"foo": True}  # the schema will say that it is unknown


def test_values_that_look_odd_are_values() -> None:
    words = ["--system_prompt", "- be brief", "--chat_template", "Q: {prompt}", "--verifier", "-"]
    assert list(scan(words, TrainConfig).given.values()) == ["- be brief", "Q: {prompt}", "-"]


# What is refused


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "error: unknown command trian: did you mean train?"),
        (["frobnicate"], "error: unknown command frobnicate: there are train, init"),
        (["train"], "error: which method?"),
        (["train", "htp"], "error: unknown method 'htp': did you mean 'hpt'?"),
        (["train", "hpt", "grpo"], "error: unexpected 'grpo': options begin with --"),
        (["train", "hpt", "--method", "grpo"], "error: two methods are named: hpt and grpo"),
        (["train", "hpt", "--config", "none.yaml"], "error: --config: cannot read none.yaml"),
        (["train", "hpt", "-x"], "error: unknown option --x"),
        (
            ["train", "hpt", "--resume_from_checkpoint", "auto"],
            "error: --resume_from_checkpoint auto needs",
        ),
        (["train", "llama3.yaml"], "error: unexpected 'llama3.yaml': a file of options is given by --config"),
        (["train", "sft", "llama3.yaml"], "error: unexpected 'llama3.yaml': a file of options is given by --config"),
        (["train", "--config"], "error: --config: needs a value"),
        (["eval"], "error: eval: expects obverse eval MODEL_OR_RUN"),
        (["export"], "error: export: expects obverse export"),
        (["init"], "error: init: expects obverse init METHOD"),
        (["data", "show"], "error: data show: expects obverse data"),
        (["eval", "a", "--model", "b"], "error: --model: given twice, once as a"),
        (["eval", "a", "--kk", "3"], "error: unknown option --kk: did you mean --k?"),
        (["methods", "--jsn"], "error: unknown option --jsn"),
        (["explain"], "error: explain: expects obverse explain METHOD"),
        (["explain", "grpo", "--betta", "1"], "error: unknown option --betta: did you mean --beta?"),
        (["explain", "grpo", "--seed", "1"], "error: unknown option --seed"),
        (["weigh", "grpo"], "error: weigh: expects obverse weigh METHOD STEP.json"),
        (["weigh", "grpo", str(STEP), "--epsilon", "x"], "error: --epsilon: expects a number, not 'x'"),
        (["data", "chek", "x"], "error: data: check or show?"),
        (["demo", "--methods", "hpt,grppo"], "error: unknown method 'grppo': did you mean 'grpo'?"),
        (["doctor", "now"], "error: unexpected 'now'"),
    ],
)
def test_a_slip_is_one_line_and_exit_code_2(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and err.count("\n") == 1


def test_a_folder_with_a_run_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/config.yaml").touch()
    assert main(["train", "hpt", "--output_dir", "mine"]) == 2
    assert "mine already holds a run" in capsys.readouterr().err


# What is done


@dataclass
class Outcome:
    exit_code: int
    stopped: bool = False
    folder: Path = Path("runs/a b")


def test_train_hands_over_the_resolved_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainConfig] = []

    def train(config: TrainConfig, watcher: Watcher, events: object = None) -> Outcome:
        watcher.note("here")
        seen.append(config)
        return Outcome(143)

    stub(monkeypatch, "obverse.training.loop", train=train)
    Path("f.yaml").write_text("method: hpt\nseed: 3\ngate: 2\n")
    assert main(["train", "--config", "f.yaml", "--gate", "1"]) == 143
    (config,) = seen
    assert (config.method, config.seed, config.method_options["gate"]) == ("hpt", 3, 1)
    assert main(["train", "--method", "sft"]) == 143 and seen[1].method == "sft"
    assert main(["train", "grpo", "--config", "f.yaml", "--gate", "1"]) == 2  # gate is no option of grpo


@pytest.mark.parametrize("name", representatives_first(names()))
def test_a_dry_run_prints_a_file_that_gives_the_same_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", name, "--dry-run", "--seed", "5", "--model", "m"]) == 0
    first = capsys.readouterr().out
    assert "seed: 5  # command line" in first and "# paper" in first
    assert not Path("runs").exists()
    Path("again.yaml").write_text(first)
    assert main(["train", "--config", "again.yaml", "--dry-run"]) == 0
    Path("third.yaml").write_text(capsys.readouterr().out)
    assert read("again.yaml").values == read("third.yaml").values


def test_eval_prints_the_table_and_the_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Report:
        path = Path("evals/a.json")

        def table(self) -> str:
            return "the table"

    def evaluate_each(config: EvalConfig, watcher: Watcher) -> list[Report]:
        assert config.model == "runs/x" and config.k == (1, 8) and config.model_fields_set == {"model", "k"}
        return [Report()]

    stub(monkeypatch, "obverse.evaluation.evaluate", evaluate_each=evaluate_each)
    assert main(["eval", "runs/x", "--k", "1,8"]) == 0
    assert capsys.readouterr().out == "the table\nevals/a.json\n"


def test_eval_of_several_models_has_a_folder_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, Path | None]] = []

    def evaluate_each(config: EvalConfig, watcher: Watcher) -> list[object]:
        seen.append((config.model, config.output))
        return []

    stub(monkeypatch, "obverse.evaluation.evaluate", evaluate_each=evaluate_each)
    assert main(["eval", "runs/x", "b", "--output", "out"]) == 0
    assert seen == [("runs/x", Path("out/1-x")), ("b", Path("out/2-b"))]
    for words, said in (
        (["eval", "a", "--paired"], "--paired compares two models, named are 1"),
        (["eval", "a", "--over_seeds"], "needs the models of several seeds"),
        (["eval", "a", "--model", "b"], "--model: given twice, once as a"),
        (["eval", "a", "--benchmarks", "aime2"], "unknown benchmark 'aime2': did you mean 'aime2"),
        (["eval", "a", "--benchmarks", "aime24", "--dataset", "d"], "give one of them"),
        (["eval", "a", "--benchmark_dir", "d"], "name them with --benchmarks"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err


def test_eval_regrades_without_a_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def regrade(config: RegradeConfig, watcher: Watcher) -> list[object]:
        assert (config.regrade, config.verifier, config.k) == (Path("evals/x"), "exact", None)
        return []

    stub(monkeypatch, "obverse.evaluation.regrade", regrade=regrade)
    assert main(["eval", "--regrade", "evals/x", "--verifier", "exact"]) == 0


def test_demo_hands_over_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, "obverse.cli.demo", run=lambda config: len(config.methods))
    assert main(["demo", "--methods", "hpt,grpo"]) == 2


def test_weigh_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weigh", "sft", str(STEP)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"][0] == {"problem": "solved", "kept": True, "coefficient": [0.2, 0.2, 0.2]}


def test_data_check_counts_and_data_show_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "arithmetic:1-2", "--num_problems", "20"]) == 0
    out = capsys.readouterr().out
    assert "problems" in out and "20" in out and "no prompt is in two of train, heldout" in out
    assert main(["data", "show", "arithmetic:1", "--num", "1"]) == 0
    out = capsys.readouterr().out
    assert "prompt " in out and "step 1" in out and "answer" in out


def test_bad_rows_are_listed_and_exit_code_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text('{"prompt": "a", "answer": "1"}\n{"answer": "1"}\nnot json\n')
    assert main(["data", "check", "rows.jsonl"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("rows.jsonl:2: ") and lines[1].startswith("rows.jsonl:3: ")
    assert lines[2].startswith("error: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_fits(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: obverse {command}")
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 100


def test_help_of_train_shows_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "hpt", "--help-all"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for group in train_schema(find("hpt")).groups().values():
        assert all(f"--{name} " in out for name in group)
    assert "[5e-06 (paper)]" in out and "--gate INT a problem with more correct rollouts" in out


def test_alone_it_says_what_to_try(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 10 and out.count("  obverse ") == 5
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {command}" in out for command in COMMANDS)


# How it ends


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("bad\x1b[31m"), 3), (CheckpointError("gone"), 4), (KeyboardInterrupt(), 130)]
)
def test_errors_have_their_codes_and_no_traceback(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(config: TrainConfig, watcher: Watcher, events: object = None) -> Outcome:
        raise error

    stub(monkeypatch, "obverse.training.loop", train=train)
    assert main(["train", "hpt"]) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err and "\x1b" not in err and err.count("\n") == 1


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "htp", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("error: unknown method 'htp': did you mean 'hpt'?\n")


def test_a_mistake_of_ours_is_not_swallowed() -> None:
    code = "import obverse.cli.main as cli; cli.dispatch = lambda words: 1 / 0; cli.main([])"
    result = python("-c", code)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("internal error: ZeroDivisionError: division by zero; run again")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGPIPE")
@pytest.mark.parametrize(
    "words", ["explain hpt", "methods --json", "--help", pytest.param("train hpt --dry-run", marks=pytest.mark.slow)]
)
def test_a_reader_that_goes_away_is_no_error(words: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "obverse", *words.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT, "PYTHONUNBUFFERED": ""},
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()  # before it has started to write
        assert process.stderr.read() == b""
    assert process.returncode in (1, 141)


def test_an_interrupt_before_the_run_is_130() -> None:
    # whoever started the tests may have had SIGINT ignored: a shell's background job has
    listen = "import os, signal, obverse.cli.main as cli; signal.signal(signal.SIGINT, signal.default_int_handler)"
    kill = "cli.dispatch = lambda words: os.kill(os.getpid(), signal.SIGINT)"
    result = python("-c", f"{listen}; {kill}; print(cli.main([]))")
    assert result.stdout.strip() == "130" and result.stderr.strip() == "interrupted"
