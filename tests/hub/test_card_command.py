"""The command and the formula rows of a card, for every method: they are those of the run."""

from __future__ import annotations

import shlex

import pytest
from mechanisms import representatives_first

from obverse import methods
from obverse.api.export import method_facts
from obverse.cli.parser import scan
from obverse.config.method_options import train_schema
from obverse.config.resolve import resolve
from obverse.hub.training_record import TrainingRecord

OPTIONS = {
    "model": "owner/base",
    "learning_rate": "2e-5",
    "max_completion_length": 96,
    "stop_strings": "#,Q: ",
    "system_prompt": "It's brief.",
    "chat_template_kwargs": "enable_thinking=false,level=3",
    "eval_steps": 0.25,
    "report": False,
    "verifier_weights": "1,0.5",
    "lora_target_modules": "q_proj,v_proj",
    "use_peft": True,
}


PLAIN = {  # the defaults of options that papers and the preset of the embedded base set otherwise
    "micro_batch_tokens": "none",
    "lr_scheduler_type": "constant",
    "adam_beta2": 0.999,
    "weight_decay": 0.0,
    "num_train_epochs": 3.0,
    "imitation_learning_rate": "none",
}


@pytest.mark.parametrize("name", representatives_first(methods.names()))
@pytest.mark.parametrize("given", [OPTIONS, PLAIN], ids=["changed", "plain"])
def test_the_command_gives_the_options_of_the_run(name: str, given: dict[str, object]) -> None:
    make = methods.find(name)
    options = resolve(name, make, given).model_dump(mode="json")
    record = TrainingRecord(1, "", options)
    words = shlex.split(record.command().replace("\\\n", " "))
    assert words[:3] == ["obverse", "train", name]
    assert resolve(name, make, scan(words[3:], train_schema(make)).given).model_dump(mode="json") == options
    facts = method_facts(record)
    assert facts.terms and all(len(term) == 6 and all(term) for term in facts.terms) and facts.summary
