from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from obverse.data.synthetic import arithmetic, countdown
from obverse.rewards import get_verifier
from recipes import embedded_base

BASE = Path(__file__).parents[1] / "obverse" / "assets" / "base"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


def test_the_folder_is_small_and_safe():
    files = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3 * 2**20
    assert {path.suffix for path in files} <= {".json", ".safetensors"}


def test_the_model_loads_plainly(model, tokenizer):
    assert (
        isinstance(model, Qwen2ForCausalLM)
        and model.get_output_embeddings().weight is model.get_input_embeddings().weight
    )
    assert 1_000_000 < model.num_parameters() < 1_100_000
    assert model.config.vocab_size == len(tokenizer) == 258
    assert AutoModelForCausalLM.from_pretrained(BASE).dtype == torch.bfloat16


def test_it_knows_where_to_stop(model, tokenizer):
    assert tokenizer.eos_token == "<|endoftext|>" and tokenizer.pad_token == "<|pad|>"
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.bos_token is None and tokenizer.chat_template is None


@settings(max_examples=200, deadline=None)
@given(text=st.text())
@example(text="e\u0301 \uf900  don't , 12\t\n ")
def test_any_text_survives_the_tokenizer(tokenizer, text):
    """Up to Unicode's normal form C, which transformers gives every tokenizer of a Qwen2 model."""
    assume(not any(token in text for token in tokenizer.all_special_tokens))
    normal = unicodedata.normalize("NFC", text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(normal.encode()) and tokenizer.decode(ids) == normal


def test_the_name_of_a_special_token_is_that_token(tokenizer):
    assert tokenizer.encode("#32<|endoftext|>")[-1] == tokenizer.eos_token_id


def test_it_solves_easy_problems_and_not_hard_ones(model, tokenizer):
    assert accuracy(model, tokenizer, arithmetic, 1) > 0.5
    assert accuracy(model, tokenizer, countdown, 2) > 0.5
    assert accuracy(model, tokenizer, arithmetic, 6) < 0.1


def test_the_recipe_reads_the_train_side_and_three_steps_at_most(monkeypatch):
    asked = []

    def listen(generate):
        return lambda split, *rest: asked.append(split) or generate(split, *rest)

    few = tuple(replace(schedule, num_problems=40, num_seeds=1) for schedule in embedded_base.SOURCES)
    monkeypatch.setattr(embedded_base, "SOURCES", few)
    monkeypatch.setattr(
        embedded_base, "GENERATE", {task: listen(generate) for task, generate in embedded_base.GENERATE.items()}
    )
    reading = embedded_base.read(1)
    texts = [text for _ in range(10) for text in next(reading)]
    assert set(asked) == {"train"} and len(asked) == len(few)
    steps = [len(re.findall(r"\d=\d", given + learned)) for given, learned in texts]
    assert max(steps) == embedded_base.MAX_STEPS == 3
    assert all(("\n.." in given) != given.endswith("\nA:") for given, _ in texts)


def accuracy(model, tokenizer, task, difficulty, num_problems=24):
    """The share of held-out problems that greedy decoding solves."""
    problems = task.generate("heldout", num_problems, 7, (difficulty, difficulty))
    tokenizer.padding_side = "left"
    inputs = tokenizer([problem.prompt for problem in problems], return_tensors="pt", padding=True)
    out = model.generate(**inputs, do_sample=False, max_new_tokens=24 if difficulty < 3 else 60)
    texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    judge = get_verifier(problems[0].verifier)
    return sum(bool(judge(p, text).correct) for p, text in zip(problems, texts, strict=True)) / num_problems
