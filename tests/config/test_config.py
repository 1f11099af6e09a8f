"""Options: what they may be, which value wins, and that a configuration survives its own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from annotated_types import Ge, Gt
from mechanisms import representatives_first

from obverse import methods
from obverse.cli.parser import scan
from obverse.config.commands import DataConfig, DemoConfig, GradeConfig
from obverse.config.eval import EvalConfig
from obverse.config.fields import Options
from obverse.config.method_options import train_schema
from obverse.config.resolve import method_options, read, resolve
from obverse.config.sources import COMMAND_LINE, Layer, arguments, is_option, kinds
from obverse.config.train import EMBEDDED_PRESET, TrainConfig
from obverse.config.yaml_file import read as read_file
from obverse.config.yaml_file import write
from obverse.errors import ConfigError
from obverse.estimator.method import Method
from obverse.methods import find, names
from obverse.runtime.output_dir import slug, with_folder

ALL = (TrainConfig, EvalConfig, GradeConfig, DemoConfig, DataConfig)


def refusal(*args: Any, **kwargs: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(*args, **kwargs)
    return str(caught.value).splitlines()


def hpt(**given: Any) -> TrainConfig:
    return resolve("hpt", find("hpt"), given)


# What an option may be


@pytest.mark.parametrize("made", ALL)
def test_every_option_is_described_and_every_number_is_bounded(made: type[Options]) -> None:
    listed = [name for group in made.groups().values() for name in group]
    assert sorted(listed) == sorted(name for name in made.model_fields if is_option(made, name))
    for name in listed:
        field = made.model_fields[name]
        assert field.description, name
        if {int, float} & set(kinds(made, name)):
            bounded = any(isinstance(each, Ge | Gt) for each in field.metadata) or "Ge(" in repr(field.annotation)
            assert bounded or "Gt(" in repr(field.annotation) or name == "max_steps", f"{name} has no lower bound"


@pytest.mark.parametrize("made", ALL)
def test_defaults_lie_within_their_own_bounds(made: type[Options]) -> None:
    required = {name: "x" for name, field in made.model_fields.items() if field.is_required()}
    config = made(**required)
    assert made(**config.model_dump()) == config


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"seed": "x"}, "--seed: expects a whole number, not 'x'"),
        ({"seed": True}, "--seed: expects a number, not true"),
        ({"seed": "-1"}, "--seed: must be at least 0, not '-1'"),
        ({"temperature": "0"}, "--temperature: must be above 0.0, not '0'"),
        ({"top_p": "1.5"}, "--top_p: must be at most 1.0, not '1.5'"),
        ({"learning_rate": "nan"}, "--learning_rate: must be finite, not 'nan'"),
        ({"max_steps": "0"}, "--max_steps: must be -1 (by epochs) or at least 1"),
        ({"device": "gpu"}, "--device: expects auto, cpu, mps, cuda or cuda:N, not 'gpu'"),
        ({"dtype": "float23"}, "did you mean float32?"),
        ({"scale_rewards": "grup"}, "--scale_rewards: expects 'none' or 'group', not 'grup': did you mean group?"),
        ({"num_generations": "0"}, "--num_generations: must be at least 1, not '0'"),
        ({"model": ""}, "--model: must not be empty"),
        ({"output_dir": ""}, "--output_dir: must not be empty"),
        ({"learning_rat": "1"}, "unknown option --learning_rat: did you mean --learning_rate?"),
        ({"zzz": "1"}, "unknown option --zzz: see 'obverse train hpt --help'"),
        ({"method_options": "{}"}, "there is no option --method_options"),
        ({"warmup_ratio": "0.1"}, "there is no option --warmup_ratio: use warmup_steps"),
        ({"per_device_train_batch_size": "8"}, "prompts_per_step = per_device_train_batch_size"),
        ({"dataset": "a", "dataset_name": "b"}, "--dataset: given twice, once as --dataset_name"),
    ],
)
def test_a_bad_option_is_one_sentence(given: dict[str, Any], line: str) -> None:
    (problem,) = refusal("hpt", find("hpt"), given)
    assert line in problem


def test_all_problems_of_all_layers_come_at_once() -> None:
    file = Layer("run.yaml", {"seeed": 1, "max_steps": "x"})
    found = refusal("hpt", find("hpt"), {"learning_rat": "1", "seed": "y"}, file)
    assert len(found) == 4
    assert "run.yaml: unknown option seeed: did you mean seed?" in found
    assert "run.yaml: max_steps: expects a whole number, not 'x'" in found


def test_none_is_no_value_unless_it_is_one_of_the_choices() -> None:
    config = hpt(skip_grad_norm="none", scale_rewards="none", epsilon="none", verifier="None")
    assert config.skip_grad_norm is None and config.verifier is None
    assert config.method_options["scale_rewards"] == "none" and config.method_options["epsilon"] is None


def test_names_that_mean_the_same_are_taken() -> None:
    config = hpt(model_name_or_path="m", **{"dataset-name": "d", "num-generations": "4", "reward_funcs": "math"})
    assert (config.model, config.dataset, config.verifier) == ("m", "d", "math")
    assert config.method_options["num_generations"] == 4


@pytest.mark.parametrize(
    ("value", "meaning"), [(True, "auto"), ("true", "auto"), (False, "never"), ("auto", "auto"), ("r/c-3", "r/c-3")]
)
def test_resume_takes_truth_and_paths(value: Any, meaning: str) -> None:
    assert hpt(resume_from_checkpoint=value).resume_from_checkpoint == meaning


def test_a_configuration_cannot_be_changed_after_the_start() -> None:
    with pytest.raises(ValueError, match="frozen"):
        hpt().seed = 3  # type: ignore[misc]


def test_k_is_a_list_and_asks_for_enough_samples() -> None:
    assert EvalConfig(model="m", k="8,1,8").k == (8, 1)  # type: ignore[arg-type]
    assert EvalConfig(model="m", k="8,1").num_samples == 8  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="num_generations 4"):
        read(EvalConfig, [Layer(COMMAND_LINE, {"model": "m", "num_generations": "4"})], "")


# A method's options


def test_a_parameter_that_is_a_run_option_is_one_option_with_the_runs_default() -> None:
    made = train_schema(find("hpt"))
    assert "max_completion_length" not in made.groups()["method"]
    assert hpt(model="m").method_options["max_completion_length"] == 512  # the function's own default is the paper's
    assert hpt(max_completion_length="64").method_options["max_completion_length"] == 64


def test_a_function_of_the_users_needs_no_annotations(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from obverse.methods.sft import sft\n"
        "def mine(threshold, rate=0.5, loud=False, name='a', count=2):\n"
        "    if rate > 1: raise ValueError('rate is a share')\n"
        "    return sft()\n"
    )
    name = f"{path}:mine"
    config = resolve(name, find(name), {"threshold": "t", "rate": "0.25", "loud": "true", "count": "3"})
    own = {"threshold": "t", "rate": 0.25, "loud": True, "name": "a", "count": 3}
    components = {option: config.method_options[option] for option in methods.added_parameters(find(name))}
    assert config.method_options == own | components
    assert refusal(name, find(name)) == ["--threshold: is required"]
    assert refusal(name, find(name), {"threshold": 1, "rate": 2}) == [f"method {name}: rate is a share"]


def test_a_method_without_a_paper_value_asks_for_a_learning_rate() -> None:
    def bare() -> Method:
        return Method(ask=find("sft")().ask, terms=find("sft")().terms)

    assert resolve("bare", bare, {"learning_rate": 1e-3, "model": "m"}).learning_rate == 1e-3
    assert refusal("bare", bare, {"model": "m"}) == ["method bare names no learning rate: give --learning_rate"]


def test_options_for_commands_that_train_nothing_are_the_functions_own() -> None:
    assert method_options("hpt", find("hpt"), {"gate": "2"})["max_completion_length"] == 8192
    with pytest.raises(ConfigError, match="did you mean --gate"):
        method_options("hpt", find("hpt"), {"gat": "2"})


# Which value wins


def test_the_command_line_wins_then_file_preset_paper_default() -> None:
    file = Layer("f.yaml", {"learning_rate": "3e-5", "seed": 7})
    config = resolve("hpt", find("hpt"), {"learning_rate": "2e-5"}, file)
    assert (config.learning_rate, config.origin("learning_rate")) == (2e-5, COMMAND_LINE)
    config = resolve("hpt", find("hpt"), {}, file)
    assert (config.learning_rate, config.origin("learning_rate")) == (3e-5, "f.yaml")
    assert (config.seed, config.origin("seed")) == (7, "f.yaml")
    config = hpt()
    assert config.learning_rate == EMBEDDED_PRESET["learning_rate"]
    assert config.origin("learning_rate") == "embedded preset"
    assert (config.weight_decay, config.origin("weight_decay")) == (0.01, "paper")
    config = hpt(model="other")
    assert (config.learning_rate, config.origin("learning_rate")) == (5e-6, "paper")
    assert (config.warmup_steps, config.origin("warmup_steps")) == (0, "default")


def test_no_learning_rate_means_the_papers() -> None:
    assert hpt(model="m", learning_rate="none").learning_rate == 5e-6


# There and back


def other(value: Any, admitted: list[Any]) -> Any:
    """A value that an option may have and has not."""
    choices = [choice for choice in admitted if isinstance(choice, str)]
    if value is None and choices:
        return choices[0]
    if value is None:
        return next(0.25 if kind is float else 3 if kind is int else "x" for kind in admitted if kind is not type(None))
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return next((choice for choice in choices if choice != value), "other: 'text' # 1")
    return value + 1 if isinstance(value, int) else value / 2


# options that a method refuses beside the other values of this test
NEEDS_OTHERS = {
    "hpt": ("gate_type", "soft_type"),
    "ppo": ("kl_target",),
    "opd": ("max_probability_drop",),
    **dict.fromkeys(("sdft", "opsd", "sdpo"), ("distillation_alpha", "distillation_topk", "distillation_add_tail")),
}


@pytest.mark.parametrize("name", representatives_first(names()))
def test_keyword_arguments_survive_a_round_trip(name: str, tmp_path: Path) -> None:  # law 10
    make = find(name)
    given = {
        option: other(parameter.default, list(kinds(train_schema(make), option)))
        for option, parameter in methods.parameters(make).items()
        if option not in methods.added_parameters(make)  # not every method can have them all at once
        and option not in NEEDS_OTHERS.get(name, ())
    }
    config = resolve(name, make, given)
    path = tmp_path / "config.yaml"
    path.write_text(write(config, origins=True))
    again = resolve(name, make, {}, read_file(path))
    assert again.method_options == config.method_options and given.items() <= again.method_options.items()
    assert again.model_dump() == config.model_dump()
    assert make(**again.method_options) == make(**config.method_options)


def test_components_survive_a_round_trip(tmp_path: Path) -> None:
    given = {"kl_coef": 0.01, "kl_estimator": "k2", "entropy_coef": 0.002, "importance_sampling": "token_mask"}
    config = resolve("dr_grpo", find("dr_grpo"), given | {"importance_sampling_cap": 3})
    path = tmp_path / "config.yaml"
    path.write_text(write(config, origins=True))
    again = resolve("dr_grpo", find("dr_grpo"), {}, read_file(path))
    assert again.model_dump() == config.model_dump() and given.items() <= again.method_options.items()


def test_texts_survive_a_round_trip(tmp_path: Path) -> None:
    prompt = "Line one:\n  'two' # three\n\ttab \u00e9 \x1b"
    config = hpt(system_prompt=prompt, chat_template="Q: {prompt}\nA:", eval_dataset="2024-01-01", output_dir="a b/c")
    path = tmp_path / "config.yaml"
    path.write_text(write(config, origins=True), encoding="utf-8")
    assert resolve("hpt", find("hpt"), {}, read_file(path)).model_dump() == config.model_dump()


def test_a_plain_configuration_is_written_flat() -> None:
    text = write(TrainConfig(method="hpt", method_options={"gate": 3}))
    assert "gate: 3\n" in text and "method_options" not in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: 1\nlearning_rate: 1\nseed: 2\n", "f.yaml:3: seed is given twice"),
        ("seed: [1\n", "f.yaml:2: not YAML"),
        ("- seed\n", "f.yaml: expects lines such as"),
        ("1: 2\n", "f.yaml: expects lines such as"),
        ("seed: !!python/object/apply:os.getcwd []\n", "f.yaml:1: a tag (!name) is not read"),
    ],
)
def test_a_bad_file_is_named(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    assert reason in str(caught.value).replace(f"{tmp_path}/", "")


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_file(tmp_path / "none.yaml")
    (tmp_path / "f.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_file(tmp_path / "f.yaml")
    (tmp_path / "f.yaml").write_text("")
    assert read_file(tmp_path / "f.yaml").values == {}


def test_nested_values_are_refused() -> None:
    (problem,) = refusal("hpt", find("hpt"), {}, Layer("f.yaml", {"seed": {"a": 1}}))
    assert problem == "f.yaml: seed: expects a whole number, not {'a': 1}"


# Where a run goes


def test_runs_get_the_next_free_number(tmp_path: Path) -> None:
    first = with_folder(hpt(), tmp_path)
    assert first.output_dir == tmp_path / "hpt-arithmetic-1-6-1" and first.output_dir.is_dir()
    assert with_folder(hpt(), tmp_path, create=False).output_dir == tmp_path / "hpt-arithmetic-1-6-2"
    assert not (tmp_path / "hpt-arithmetic-1-6-2").exists()
    (tmp_path / "hpt-arithmetic-1-6-9").mkdir()
    assert with_folder(hpt(), tmp_path).output_dir == tmp_path / "hpt-arithmetic-1-6-10"


def test_a_folder_with_a_run_is_refused_unless_it_is_resumed(tmp_path: Path) -> None:
    assert with_folder(hpt(output_dir=tmp_path)).output_dir == tmp_path
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ConfigError, match="--resume_from_checkpoint auto"):
        with_folder(hpt(output_dir=tmp_path))
    assert with_folder(hpt(output_dir=tmp_path, resume_from_checkpoint="auto")).output_dir == tmp_path


def test_resuming_says_which_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --output_dir"):
        with_folder(hpt(resume_from_checkpoint="auto"))
    path = tmp_path / "checkpoint-3"
    with pytest.raises(ConfigError, match="is not in a run folder: give --output_dir"):
        with_folder(hpt(resume_from_checkpoint=str(path)))
    (tmp_path / "config.yaml").touch()
    assert with_folder(hpt(resume_from_checkpoint=str(path))).output_dir == tmp_path


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("arithmetic:1-6", "arithmetic-1-6"),
        ("../data/gsm8k_train.jsonl", "gsm8k_train"),
        ("openai/gsm8k", "gsm8k"),
        ("mine.py:mine", "mine-mine"),
        ("..", "run"),
    ],
)
def test_slugs_are_folder_names(name: str, short: str) -> None:
    assert slug(name) == short


def test_ref_model_is_the_anchor_model(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("ref_model: base\n")
    given = scan(["--ref_model", "base"], train_schema(find("dpo"))).given
    for config in (resolve("dpo", find("dpo"), given), resolve("dpo", find("dpo"), {}, read_file(file))):
        assert config.anchor_model == "base"
    assert resolve("dpo", find("dpo"), arguments({"ref_model": tmp_path})).anchor_model == str(tmp_path)
    with pytest.raises(ConfigError, match="given twice"):
        resolve("dpo", find("dpo"), {"ref_model": "a", "anchor_model": "b"})
