"""What is written in a file means what it means on the command line, once; and ~ is the home folder in every path."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from obverse.cli.main import main
from obverse.cli.parser import scan
from obverse.config.analyze import QUESTIONS
from obverse.config.commands import DataConfig, DemoConfig, ExportConfig, GradeConfig, ReportConfig, ServeConfig
from obverse.config.compare import CompareConfig
from obverse.config.eval import EvalConfig, RegradeConfig
from obverse.config.fields import LARGEST, Options
from obverse.config.method_options import train_schema
from obverse.config.resolve import read as read_options
from obverse.config.resolve import resolve
from obverse.config.sources import COMMAND_LINE, Layer
from obverse.config.train import TrainConfig
from obverse.config.yaml_file import read, write
from obverse.errors import ConfigError
from obverse.methods import find

PATHS = [
    (TrainConfig, ("model", "dataset", "eval_dataset", "reward_model", "anchor_model", "resume_from_checkpoint")),
    (TrainConfig, ("output_dir", "chat_template", "verifier", "teacher_model", "teacher_template")),
    (CompareConfig, ("output_dir", "validation", "benchmark_dir", "tests", "methods")),
    (EvalConfig, ("model", "dataset", "verifier", "output", "benchmark_dir", "chat_template")),
    (RegradeConfig, ("regrade", "verifier")),
    (DataConfig, ("dataset", "model", "chat_template", "teacher", "teacher_template")),
    (GradeConfig, ("file", "verifier")),
    (DemoConfig, ("output_dir", "methods")),
    (ExportConfig, ("model", "output")),
    (ReportConfig, ("run", "output", "figures")),
    (ServeConfig, ("model", "program")),
    *((made, tuple(name for name in ("model", "output") if name in made.model_fields)) for made in QUESTIONS.values()),
]
NEEDED = {"dataset": "d", "verifier": "exact", "file": "f", "model": "m", "output": "o", "run": "r", "regrade": "g"}
NEEDED |= {"methods": "sft", "budget": "1M", "method": "sft", "against": "m", "benchmarks": "aime24", "before": "m"}


def made(schema: type[Options], values: dict[str, Any]) -> Options:
    needed = {name: text for name, text in NEEDED.items() if name in schema.model_fields}
    required = {name: text for name, text in needed.items() if schema.model_fields[name].is_required()}
    return schema(**{**required, **values})


@pytest.mark.parametrize(("schema", "name"), [(schema, name) for schema, names in PATHS for name in names])
def test_a_tilde_is_the_home_folder(schema: type[Options], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/at/home")
    more = {"benchmarks": "aime24"} if name == "benchmark_dir" and schema is EvalConfig else {}
    found = getattr(made(schema, {name: "~/x", **more}), name)
    assert (found[0] if isinstance(found, tuple) else str(found)) == "/at/home/x"
    plain = getattr(made(schema, {name: "$HOME/~x", **more}), name)
    assert (plain[0] if isinstance(plain, tuple) else str(plain)) == "$HOME/~x"


def test_paths_in_lists_and_beside_names_are_at_home_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert made(GradeConfig, {"verifier": "~/a.py:f,exact,~/b.py:g"}).verifier == "/h/a.py:f,exact,/h/b.py:g"  # type: ignore[attr-defined]
    config = CompareConfig(budget=1, methods="~/m.py:mine,beta=1 sft", tests="a=~/x.jsonl,b=~/y@test")
    assert config.methods == ("/h/m.py:mine,beta=1", "sft") and config.tests == ("a=/h/x.jsonl", "b=/h/y@test")


def test_a_template_and_a_text_keep_their_tilde() -> None:
    config = TrainConfig(method="sft", chat_template="~{prompt}~", system_prompt="~/x", stop_strings="~")
    assert (config.chat_template, config.system_prompt, config.stop_strings) == ("~{prompt}~", "~/x", ("~",))


def test_a_home_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "sft", "--output_dir", "~no-such-user-here/x", "--dry-run"]) == 2
    assert "~no-such-user-here" in capsys.readouterr().err


WORDS = [
    "010",
    "1:30",
    "yes",
    "1_000",
    "1e3",
    "0x10",
    "2020-01-01",
    "1.0",
    "7.5",
    "-1",
    ".inf",
    "nan",
    "0o7",
    "+5",
    "00",
]
WORDS += ["1.", "1.10", "1e-5", ".5", "off", "=", "<<", "1" * 30, "1" * 5000, "12:30:45", "1__0", "\u0663", "1e400"]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    "name", ["seed", "learning_rate", "system_prompt", "model", "report", "eval_steps", "stop_strings"]
)
def test_a_word_means_the_same_in_a_file_and_on_the_command_line(name: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(f"{name}: {word}\n", encoding="utf-8")

    def outcome(given: dict[str, Any], file: Layer | None) -> Any:
        try:
            return getattr(resolve("sft", find("sft"), given, file), name)
        except ConfigError as error:
            return str(error).partition(f"{name}: ")[2].replace(f"not {word}", f"not {word!r}")

    assert outcome({}, read(tmp_path / "t.yaml")) == outcome({name: word}, None)


def test_numbers_in_a_file_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("a: 7\nb: -1.5\nc: 1.10\nd: 010\ne: true\nf: null\ng: ~\nh:\ni: '7'\nj: [1, x]\n")
    values = {"a": 7, "b": -1.5, "c": "1.10", "d": "010", "e": True, "f": None, "g": None, "h": None, "i": "7"}
    assert read(tmp_path / "t.yaml").values == {**values, "j": [1, "x"]}


def test_texts_that_look_like_something_else_survive_a_round_trip(tmp_path: Path) -> None:
    for word in [*WORDS, "null ", "true", "~", "[a]", "a: b", "# x", "&a", "*a", "!x", "\t", "- a", "'"]:
        config = resolve("sft", find("sft"), {"system_prompt": word, "stop_strings": word})
        (tmp_path / "t.yaml").write_text(write(config), encoding="utf-8")
        again = resolve("sft", find("sft"), {}, read(tmp_path / "t.yaml"))
        assert again.model_dump() == config.model_dump(), word


@pytest.mark.parametrize(
    ("words", "name", "last"),
    [
        ("--seed 1 --seed 2", "--seed", "2"),
        ("--seed 1 --seed 1", "--seed", "1"),
        ("--seed 1 --seed=2", "--seed", "2"),
        ("--no-report --report", "--report", True),
        ("--report --no-report", "--no-report", False),
        ("--report --report=false", "--report", "false"),
        ("--model a --model_name_or_path b", "--model_name_or_path", "b"),
        ("--learning-rate 1 --learning_rate 2", "--learning_rate", "2"),
        ("--config a --config b", "--config", "b"),
        ("--no_such 1 --no_such 2", "--no_such", "2"),
    ],
)
def test_of_an_option_given_twice_the_last_one_counts_with_a_note(words: str, name: str, last: object) -> None:
    scanned = scan(words.split(), TrainConfig, extra=("config",))
    (note,) = scanned.notes
    assert note.startswith(f"{name}: given twice") and not scanned.problems
    assert [*scanned.given.values()] == [last]


def test_a_text_that_begins_with_a_dash_is_a_value() -> None:
    found = scan(["--system_prompt", "-be brief", "--stop_strings", "--", "--dataset=-x"], TrainConfig)
    assert found.given == {"system_prompt": "-be brief", "stop_strings": "--", "dataset": "-x"} and not found.problems


INTEGERS = [
    name for name, field in TrainConfig.model_fields.items() if int in (*get_args(field.annotation), field.annotation)
]


@pytest.mark.parametrize("name", [name for name in INTEGERS if name != "report"])
@pytest.mark.parametrize("value", [str(LARGEST + 1), "9" * 4000, "9" * 5000, "-" + "9" * 30])
def test_whole_numbers_have_a_largest(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        read_options(TrainConfig, [Layer(COMMAND_LINE, {name: value})], "", {"method": "sft"})


@pytest.mark.parametrize(("method", "option"), [("gkd", "lmbda"), ("rlsd", "lam"), ("ppo", "lam")])
def test_lambda_is_an_alias_of_a_methods_own_name_for_it(method: str, option: str) -> None:
    schema = train_schema(find(method))
    assert scan([method, "--lambda", "0.25"], schema).given == {option: "0.25"}
    assert resolve(method, find(method), {"lambda": 0.25}).method_options[option] == 0.25
    with pytest.raises(ConfigError, match="unknown option"):
        resolve("opd", find("opd"), {"lambda": 0.25})
