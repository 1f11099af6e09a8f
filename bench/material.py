"""The inputs of both programs: a model directory and a file of problems, created once under runs/bench."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import astuple
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from bench.cases import Case, Shape
from obverse.data import load_dataset
from obverse.models.load import locate

HOME = Path("runs/bench")
TASKS = ("arithmetic:1-6", "countdown")  # short prompts and long ones, short answers and long ones
NUM_PROBLEMS = 2_048
EOS, PAD = 0, 1
SPACE = "\u0120"  # as a byte-level vocabulary writes it
NUM_SINGLE = 3 + len(ascii_lowercase)  # eos, pad, the space and the letters

LINEAR: dict[str, Any] = {  # 3 layers of a gated delta net, 1 of attention
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "head_dim": 64,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}
# The options of model types whose layers keep states.
HYBRID: dict[str, dict[str, Any]] = {
    "falcon_h1": {"mamba_d_ssm": 512, "mamba_n_heads": 8, "mamba_d_state": 32, "mamba_chunk_size": 64},
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 3, "num_experts": 4, "num_experts_per_tok": 2},
    "lfm2": {"layer_types": ["conv"] * 3 + ["full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 64, "state_size": 32, "n_groups": 1, "chunk_size": 64},
    "qwen3_5_text": LINEAR,
    "qwen3_next": LINEAR
    | {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "shared_expert_intermediate_size": 128,
    },
}


def model_folder(case: Case) -> str:
    """The directory of the case's model, created if it does not exist."""
    if case.shape is None:
        return locate("embedded")
    folder = HOME / "models" / "-".join(map(str, astuple(case.shape)))
    if not (folder / "tokenizer.json").exists():
        torch.manual_seed(0)
        random_model(case.shape).save_pretrained(folder)
        words(case.shape.num_tokens).save_pretrained(folder)
    return str(folder)


def random_model(shape: Shape) -> Any:
    """The shape with random weights in float32."""
    config = AutoConfig.for_model(
        shape.kind,
        vocab_size=shape.num_tokens,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        initializer_range=shape.spread,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
        **HYBRID.get(shape.kind, {}),
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def words(num_tokens: int) -> PreTrainedTokenizerFast:
    """A token is a word of letters with a space before it, so that the length of a text in tokens is known.

    It is a byte-level BPE, because transformers loads the tokenizer of any Qwen2 folder as one.
    """
    names = vocabulary(num_tokens)
    longer = [name for name in names[NUM_SINGLE:] if len(name) > 1]
    model = models.BPE({name: index for index, name in enumerate(names)}, [(name[:-1], name[-1]) for name in longer])
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    # without an unknown token, Qwen2's is added after the last token, which has no embedding in the model
    special = {"eos_token": names[EOS], "pad_token": names[PAD], "unk_token": names[PAD]}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def vocabulary(num_tokens: int) -> list[str]:
    """Eos, pad, the space, the letters; then a space and one letter, two letters, three, ..., as many as there are."""
    names = ["<eos>", "<pad>", SPACE, *ascii_lowercase]
    longer = (SPACE + "".join(word) for size in range(1, 9) for word in product(ascii_lowercase, repeat=size))
    return names + list(islice(longer, num_tokens - len(names)))


def problem_file(case: Case) -> str:
    """The file of the case's problems, in a row layout of obverse."""
    name = "embedded" if case.shape is None else f"{case.prompt_tokens}-{case.max_new}-{case.shape.num_tokens}"
    path = HOME / "problems" / f"{name}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = embedded_rows() if case.shape is None else word_rows(case, case.shape.num_tokens)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def embedded_rows() -> Iterator[dict[str, Any]]:
    """The embedded tasks' problems in turns."""
    num_per_task = NUM_PROBLEMS // len(TASKS)
    for problems in zip(*(load_dataset(task, num_problems=num_per_task, seed=42) for task in TASKS), strict=True):
        for problem in problems:
            yield {
                "id": problem.id,
                "prompt": problem.prompt,
                "answer": problem.answer,
                "verifier": problem.verifier,
                "demonstration": list(problem.demonstration or ()),
            }


def word_rows(case: Case, num_tokens: int) -> Iterator[dict[str, Any]]:
    """Random words: a prompt of the case's length, a demonstration that fills the rest (with eos) exactly."""
    rng, names = random.Random(0), vocabulary(num_tokens)
    say = lambda num: "".join(rng.choices(names[NUM_SINGLE:], k=num)).replace(SPACE, " ")  # noqa: E731
    for number in range(NUM_PROBLEMS // 8):
        prompt = "q" + say(case.prompt_tokens - 1)
        row = {"id": f"words-{number}", "prompt": prompt, "answer": "a", "verifier": "exact"}
        yield row | ({"demonstration": say(case.max_new - 1)} if case.work == "shown" else {})
