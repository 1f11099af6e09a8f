"""Model cards: facts of records only, sealed, without secrets; and the entry that evaluations read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hub.fake_hub import TOKEN

from obverse.config.eval import EvalConfig
from obverse.errors import ConfigError
from obverse.evaluation.card_options import read_card_entry
from obverse.evaluation.eval_sets import fill_from_run, find_target
from obverse.hub.evaluation_figures import EvaluationFigures, Figure
from obverse.hub.model_card import CardFacts, MethodFacts, PromptFormat, SourceModel, fenced, is_unchanged, model_card
from obverse.hub.training_record import TrainingRecord, option_text

OPTIONS = {
    "method": "grpo",
    "method_options": {"num_generations": 8, "beta": 0.04, "max_completion_length": 64},
    "num_generations": 8,
    "beta": 0.0,
    "max_completion_length": 64,
    "temperature": 0.6,
    "stop_strings": ["###", "Q:"],
    "parse_special_tokens": False,
    "model": "Qwen/Qwen2.5-0.5B",
    "dataset": "/home/me/data/gsm8k.jsonl",
    "dataset_split": "train",
    "verifier": "/home/me/reward.py:score,math",
    "output_dir": "/home/me/runs/1",
    "push_to_hub": True,
    "learning_rate": 1e-6,
}
INPUTS = {"dataset": "d" * 64, "verifier": f"score@{'e' * 64}*1.0,math*1.0", "model": "Qwen/Qwen2.5-0.5B@abc"}
RECORD = TrainingRecord(300, "a-run", OPTIONS, INPUTS, {"obverse": "0.1.0", "torch": "2.13.0"})
FACTS = CardFacts(
    kind="model",
    base=SourceModel("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", commit="abc"),
    record=RECORD,
    method=MethodFacts(
        "One sentence.", "[link](https://host)", [("rollout", "1", "clip", "behavior", "one", "per_token")]
    ),
    evaluations=[EvaluationFigures("aime24", "f" * 64, 30, "temperature 0.6", (Figure("avg@32", 0.5, 0.25, 0.75),))],
    prompt=PromptFormat(
        "a form", "Question: QUESTION\nAnswer:", "<eos>", False, {"form": "Question: {prompt}\nAnswer:"}
    ),
    license={"license": "apache-2.0"},
    datasets=["openai/gsm8k"],
)


def header_of(card: str) -> dict[str, object]:
    """The YAML header of a card."""
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_the_header_has_the_fields_of_the_hub() -> None:
    assert header_of(model_card(FACTS, "me/model")) == {
        "base_model": "Qwen/Qwen2.5-0.5B",
        "base_model_relation": "finetune",
        "datasets": ["openai/gsm8k"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["obverse", "grpo"],
        "obverse": {
            "version": "",
            "method": "grpo",
            "step": 300,
            "eval": {name: OPTIONS[name] for name in ("max_completion_length", "temperature", "stop_strings")}
            | {"parse_special_tokens": False},
            "template": {"form": "Question: {prompt}\nAnswer:"},
        },
    }


def test_what_is_not_known_is_left_out() -> None:
    card = model_card(CardFacts("model", None, None, MethodFacts(), (), None), "model")
    assert set(header_of(card)) == {"library_name", "pipeline_tag", "tags", "obverse"}
    assert "Not evaluated." in card and "## Method" not in card and "## Data" not in card
    assert not {"None", "license", "base_model"} & set(card.replace("`", " ").split())


def test_the_body_has_figures_hashes_and_the_command() -> None:
    card = model_card(FACTS, "me/model")
    assert "| `aime24` | 30 | avg@32 | 50.0% | 25.0% .. 75.0% |" in card
    for text in (
        "d" * 64,
        "e" * 64,
        "f" * 64,
        "| rollout | 1 | clip | behavior | one | per_token |",
        "| torch | 2.13.0 |",
    ):
        assert text in card
    command = card[card.index("obverse train grpo") : card.index("Every other option")]
    assert "--beta 0.0" in command and "--stop_strings '###,Q:'" in command and "--num_generations" not in command
    assert "--dataset gsm8k.jsonl" in command and "--verifier reward.py:score,math" in command
    assert "output_dir" not in card and "push_to_hub" not in card and "/home/me" not in card


@pytest.mark.parametrize(
    ("facts", "present", "absent"),
    [
        (FACTS, ["vllm serve me/model\n", 'AutoModelForCausalLM.from_pretrained("me/model")'], ["peft", "lora"]),
        (replace(FACTS, kind="adapter", lora_rank=24), ["--max-lora-rank 32", "vllm serve Qwen/Qwen2.5-0.5B"], []),
        (replace(FACTS, kind="adapter", lora_rank=0), ["PeftModel"], ["vllm"]),
        (
            replace(FACTS, kind="adapter", base=SourceModel("mine")),
            ['from_pretrained("BASE")', "folder of the base"],
            [],
        ),
        (replace(FACTS, kind="reward model"), ["AutoModelForSequenceClassification", "reward_funcs="], ["vllm"]),
    ],
)
def test_the_loading_section_fits_the_kind(facts: CardFacts, present: list[str], absent: list[str]) -> None:
    loading = model_card(facts, "me/model").partition("## Loading")[2]
    assert all(text in loading for text in present) and not any(text in loading for text in absent)


def test_a_method_of_the_user_is_not_read_again() -> None:
    options = {**OPTIONS, "method": "/home/me/gone.py:mine"}
    record = replace(RECORD, options=options, inputs={**INPUTS, "method": f"mine@{'c' * 64}"})
    card = model_card(replace(FACTS, record=record), "model")
    assert "`gone.py:mine`" in card and "c" * 64 in card and "--num_generations 8" in card and "/home/me" not in card
    assert header_of(card)["tags"] == ["obverse", "mine"]


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", "abcd1234efgh5678")
    options = {**OPTIONS, "system_prompt": f"use abcd1234efgh5678 and {TOKEN}"}
    card = model_card(replace(FACTS, record=replace(RECORD, options=options)), "model")
    assert "--system_prompt 'use *** and ***'" in card and TOKEN not in card and "abcd1234efgh5678" not in card


def test_an_edited_card_is_recognized() -> None:
    card = model_card(FACTS, "me/model")
    assert is_unchanged(card)
    assert not is_unchanged(card.replace("50.0%", "60.0%")) and not is_unchanged(card + "more") and not is_unchanged("")


def test_a_fence_is_longer_than_those_inside() -> None:
    assert fenced("a\n```\nb", "text") == "````text\na\n```\nb\n````"
    assert option_text({"a": [1, None], "b": True}) == "a=1,none,b=true"


def target_of(tmp_path: Path, entry: object) -> EvalConfig:
    """The options with which a folder is evaluated whose card has this entry."""
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'obverse': entry})}---\n")
    config = EvalConfig(model=str(tmp_path), temperature=0.2)
    return fill_from_run(config, find_target(config))


def test_an_evaluation_uses_the_options_of_a_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(model_card(FACTS, "me/model"))
    assert read_card_entry(str(tmp_path))["template"] == {"form": "Question: {prompt}\nAnswer:"}
    config = target_of(tmp_path, {"eval": {"max_completion_length": 64, "temperature": 0.6, "stop_strings": ["#"]}})
    assert (config.max_completion_length, config.temperature, config.stop_strings) == (64, 0.2, ("#",))


def test_a_card_of_another_author_names_no_file(tmp_path: Path) -> None:
    """A verifier of a card would be code, and a template a path of this machine."""
    entry = {"eval": {"verifier": "evil.py:f", "chat_template": "/etc/passwd", "temperature": 0.5}, "more": 1}
    config = target_of(tmp_path, entry)
    assert config.verifier is None and config.chat_template == "auto"
    assert read_card_entry(str(tmp_path)) == {"eval": {"temperature": 0.5}}


@pytest.mark.parametrize(
    "entry", [{"eval": {"temperature": "hot"}}, {"eval": {"max_completion_length": -1}}, {"eval": 3}]
)
def test_an_invalid_entry_is_one_sentence(entry: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"README\.md of") as error:
        target_of(tmp_path, entry)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["no header", "---\na: [\n---\n", "---\nobverse: text\n---\n", "---\n- a\n---\n", ""])
def test_any_other_readme_is_no_obstacle(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert read_card_entry(str(tmp_path)) == {}
