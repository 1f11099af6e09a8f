"""Texts beyond a model's positions: learned tables are found by trying, and refused before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_tokenizer
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    XGLMConfig,
    XGLMForCausalLM,
)

import runs
from obverse.config.eval import EvalConfig
from obverse.errors import ConfigError
from obverse.evaluation.evaluate import evaluate
from obverse.inference import SamplingParams, SamplingRequest
from obverse.inference.hf import HFSampler
from obverse.models.position_limits import can_read, num_positions, rated_positions
from obverse.runtime.callbacks import Silent
from obverse.runtime.signals import SignalWatcher
from obverse.training.setup import prepare
from obverse.types import ModelInput

NUM = 40
SIZE: dict[str, Any] = {"vocab_size": 512, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 2}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": NUM}


def made(kind: str) -> Any:
    gpt = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": NUM}
    makers: dict[str, tuple[Any, Any]] = {
        "gpt2": (GPT2LMHeadModel, GPT2Config(**SIZE, **gpt)),
        "opt": (OPTForCausalLM, OPTConfig(**SIZE, **SMALL, ffn_dim=16, word_embed_proj_dim=16)),  # an offset of 2
        "gptj": (GPTJForCausalLM, GPTJConfig(**SIZE, **gpt, rotary_dim=4)),  # a table that is not learned
        "llama": (LlamaForCausalLM, LlamaConfig(**SIZE, **SMALL, intermediate_size=16)),
    }
    model, config = makers[kind]
    return model(config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, tokenizer = tmp_path_factory.mktemp("positions"), tiny_tokenizer("llama")
    scalar = GPT2ForSequenceClassification(
        GPT2Config(**SIZE, n_embd=16, n_layer=1, n_head=2, n_positions=NUM, num_labels=1)
    )
    for name, model in {"gpt2": made("gpt2"), "llama": made("llama"), "scorer": scalar}.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gptj"])
def test_a_table_of_positions_is_found_and_its_rows_are_counted(kind: str) -> None:
    model = made(kind)
    assert num_positions(model) == NUM
    assert can_read(model, NUM, NUM) and not can_read(model, NUM + 1, NUM)


def test_rotary_positions_have_no_bound() -> None:
    model = made("llama")
    assert num_positions(model) is None and can_read(model, NUM + 1, None)


def test_a_table_that_grows_is_no_bound() -> None:
    model = XGLMForCausalLM(
        XGLMConfig(**SIZE, d_model=16, ffn_dim=16, num_layers=1, attention_heads=2, max_position_embeddings=NUM)
    )
    (drawn,) = HFSampler(model.eval()).sample(
        [SamplingRequest(ModelInput((3,) * 20), [1])], SamplingParams((), NUM - 10)
    )
    assert len(drawn[0].ids) == NUM - 10


def test_slopes_that_are_made_for_a_length_are_found() -> None:
    model = MptForCausalLM(MptConfig(vocab_size=512, d_model=16, n_layers=1, n_heads=2, max_seq_len=NUM)).eval()
    assert num_positions(model) is None and rated_positions(model) == NUM and not can_read(model, NUM + 1, None)


def rows(path: Path, prompt: str, answer: str) -> Path:
    row = {"prompt": prompt, "answer": "4", "demonstration": answer, "chosen": answer, "rejected": "no"}
    path.write_text("".join(json.dumps(each) + "\n" for each in (row, {**row, "prompt": "2 + 2"})))
    return path


LONG, SHORT = "nine nine nine nine nine nine " * 8, "4"
CASES = [
    ("grpo", "1 + 3", SHORT, NUM, "a completion"),  # a prompt of some tokens more
    ("grpo", LONG, SHORT, 1, "a completion"),
    ("sft", "1 + 3", LONG, 4, "demonstration"),
    ("dpo", "1 + 3", LONG, 4, "chosen or rejected"),
    ("uft", "1 + 3", LONG, 4, "a completion"),  # behind a hint
]


@pytest.mark.parametrize(("method", "prompt", "answer", "most", "named"), CASES)
def test_a_run_refuses_what_a_table_does_not_reach(
    method: str, prompt: str, answer: str, most: int, named: str, folders: Path, tmp_path: Path
) -> None:
    options = {"prompts_per_step": 2, "max_completion_length": most, "chat_template": "none", "verifier": "math"}
    data = rows(tmp_path / "rows.jsonl", prompt, answer)
    with pytest.raises(ConfigError, match=f"has {NUM} positions, and [12] problems need more.*{named}"):
        prepare(runs.config(method, tmp_path / "run", folders / "gpt2", data, **options), SignalWatcher(Silent()))
    data = rows(tmp_path / "short.jsonl", "1 + 3", SHORT)
    options["max_completion_length"] = 4
    prepare(runs.config(method, tmp_path / "fits", folders / "gpt2", data, **options), SignalWatcher(Silent()))


def test_held_out_problems_and_reward_models_are_looked_at(folders: Path, tmp_path: Path) -> None:
    data, long = (rows(tmp_path / name, prompt, "4") for name, prompt in (("a.jsonl", "1 + 3"), ("b.jsonl", LONG)))
    options: dict[str, Any] = {"prompts_per_step": 2, "max_completion_length": 4, "chat_template": "none"}
    config = runs.config(
        "grpo", tmp_path / "one", folders / "gpt2", data, eval_dataset=str(long), verifier="math", **options
    )
    with pytest.raises(ConfigError, match="the model has 40"):
        prepare(config, SignalWatcher(Silent()))
    model = str(folders / "scorer")
    config = runs.config("grpo", tmp_path / "two", folders / "llama", long, reward_model=model, **options)
    with pytest.raises(ConfigError, match="the reward model has 40"):
        prepare(config, SignalWatcher(Silent()))


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_rotary_models_are_told_once_that_texts_are_longer_than_they_were_made_for(
    folders: Path, tmp_path: Path
) -> None:
    watcher = Notes()
    options: dict[str, Any] = {"prompts_per_step": 2, "chat_template": "none", "verifier": "math"}
    data = rows(tmp_path / "rows.jsonl", "1 + 3", "4")
    for most, number in ((NUM, 1), (8, 0)):
        config = runs.config(
            "grpo", tmp_path / str(most), folders / "llama", data, max_completion_length=most, **options
        )
        watcher.notes.clear()
        prepare(config, SignalWatcher(watcher))
        assert sum("40 positions" in note for note in watcher.notes) == number


def test_an_evaluation_refuses_what_a_table_does_not_reach(folders: Path, tmp_path: Path) -> None:
    data = rows(tmp_path / "rows.jsonl", "1 + 3", "4")
    options: dict[str, Any] = {"model": str(folders / "gpt2"), "dataset": str(data), "num_generations": 1, "k": (1,)}
    with pytest.raises(ConfigError, match="has 40 positions"):
        evaluate(EvalConfig(**options, max_completion_length=NUM, output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_sampler_refuses_for_all_others(folders: Path) -> None:
    sampler = HFSampler(made("gpt2"))
    torch.manual_seed(0)
    (drawn,) = sampler.sample(
        [SamplingRequest(ModelInput((3,) * 20), [1])], SamplingParams((), NUM - 19)
    )  # the last token is not read
    assert len(drawn[0].ids) == NUM - 19
    with pytest.raises(ConfigError, match="40 positions"):
        sampler.sample([SamplingRequest(ModelInput((3,) * 20), [1])], SamplingParams((), NUM - 18))
