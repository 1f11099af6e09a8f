"""The options that the help lists first exist, fit the method, and hide nothing that must be given."""

from __future__ import annotations

import pytest

from obverse.cli.main import main
from obverse.config.analyze import QUESTIONS
from obverse.config.compare import CompareConfig
from obverse.config.eval import EvalConfig
from obverse.config.fields import Options
from obverse.config.method_options import train_schema, with_essentials
from obverse.config.sources import is_option
from obverse.config.train import TrainConfig
from obverse.methods import added_parameters, find, parameters

SCHEMAS: tuple[type[Options], ...] = (TrainConfig, CompareConfig, EvalConfig)


def essentials(schema: type[Options]) -> set[str]:
    return {name for names in schema.essential_groups().values() for name in names}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_essential_option_exists(schema: type[Options]) -> None:
    assert len(set(schema.essential)) == len(schema.essential) >= 10
    assert [name for name in schema.essential if not is_option(schema, name)] == []
    assert set(schema.essential) <= {name for names in schema.groups().values() for name in names}


def test_every_essential_option_of_analyses_is_one_of_a_question() -> None:
    listed = {name for schema in QUESTIONS.values() for name in schema.essential}
    assert listed and all(any(is_option(schema, name) for schema in QUESTIONS.values()) for name in listed)


@pytest.mark.parametrize("name", ["grpo", "hpt", "sft", "relift"])
def test_a_methods_own_options_are_essential_and_its_components_are_not(name: str) -> None:
    make = find(name)
    schema = with_essentials(train_schema(make), make)
    assert set(parameters(make)) - added_parameters(make) - set(TrainConfig.to_sample) <= essentials(schema)
    assert not (added_parameters(make) - set(TrainConfig.to_sample)) & essentials(schema)
    assert set(TrainConfig.to_train) <= essentials(schema) <= set(schema.model_fields)


@pytest.mark.parametrize(("name", "samples"), [("sft", False), ("dpo", False), ("grpo", True), ("sft_then_rl", True)])
def test_grading_and_sampling_are_essential_to_methods_that_sample(name: str, samples: bool) -> None:
    make = find(name)
    schema = with_essentials(train_schema(make), make)
    assert set(TrainConfig.to_sample) & essentials(schema) == (set(TrainConfig.to_sample) if samples else set())


@pytest.mark.parametrize("words", [["train", "sft"], ["train"], ["eval"], ["compare"], ["analyze", "shift"]])
def test_the_rest_is_behind_help_all(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    short = capsys.readouterr().out
    assert main([*words, "--help-all"]) == 0
    full = capsys.readouterr().out
    assert "--help-all" in short and "--help-all" not in full
    assert "--parse_special_tokens" in full and "--parse_special_tokens" not in short
    assert len(short.splitlines()) < 60 < len(full.splitlines()) + 20


def test_a_command_without_essential_options_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--help-all"]) == 0 and main(["export", "--help"]) == 0
    assert "--hub_private_repo" in capsys.readouterr().out
