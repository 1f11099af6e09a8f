"""Files that do not fit their configuration: nothing random is trained on, evaluated or exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny, tiny_tokenizer
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

import runs
from obverse.data.renderer import Renderer
from obverse.errors import ConfigError
from obverse.models.adapter_io import load_any
from obverse.models.load import load, load_scalar
from obverse.runtime.callbacks import Silent
from obverse.runtime.signals import SignalWatcher
from obverse.training.setup import prepare

Weights = dict[str, Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole models: `llama` with a head of its own, `qwen2` with a tied one, `gpt2`, and a mixture of experts."""
    root = tmp_path_factory.mktemp("weights")
    for family in ("llama", "qwen2"):
        save_tiny(family, root / family)
    tokenizer = tiny_tokenizer("llama")
    small: dict[str, Any] = {"vocab_size": 576, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    mixture = MixtralConfig(**small, intermediate_size=16, num_key_value_heads=1, num_local_experts=3)
    models = {"mixtral": MixtralForCausalLM(mixture)}
    models["gpt2"] = GPT2LMHeadModel(GPT2Config(vocab_size=576, n_embd=16, n_layer=2, n_head=2, n_positions=64))
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture
def changed(models: Path, tmp_path: Path) -> Callable[..., str]:
    """A copy of a model whose weights are `edit` of the whole model's, and whose configuration has other `values`."""

    def change(family: str, edit: Callable[[Weights], Weights] = lambda each: each, **values: object) -> str:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(models / family, folder)
        file, config = folder / "model.safetensors", folder / "config.json"
        save_file(edit(load_file(file)), file, metadata={"format": "pt"})
        config.write_text(json.dumps({**json.loads(config.read_text()), **values}))
        return str(folder)

    return change


def renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda found: {name.replace(old, new): each for name, each in found.items()}


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda found: {name: each for name, each in found.items() if name not in names}


def with_one(name: str, *shape: int) -> Callable[[Weights], Weights]:
    return lambda found: {**found, name: torch.ones(shape)}


def cut(name: str) -> Callable[[Weights], Weights]:
    return lambda found: {**found, name: found[name][:-1].clone()}


EXPERT = "model.layers.0.block_sparse_moe.experts.2"
MISFITS: dict[str, tuple[str, Callable[[Weights], Weights], dict[str, object], str]] = {
    "prefixed": ("llama", renamed("model.", "module.model."), {}, "model.embed_tokens.weight"),
    "prefixed, tied": ("qwen2", renamed("model.", "language_model."), {}, "language_model.embed_tokens.weight"),
    "one is missing": ("llama", without(DOWN), {}, DOWN),
    "no head": ("llama", without("lm_head.weight"), {}, "lm_head.weight"),
    "no positions": ("gpt2", without("transformer.wpe.weight"), {}, "transformer.wpe.weight"),
    "no embeddings, tied": ("qwen2", without("model.embed_tokens.weight"), {}, "model.embed_tokens.weight"),
    "another shape": ("llama", cut(DOWN), {}, DOWN),
    "a smaller vocabulary": ("qwen2", cut("model.embed_tokens.weight"), {}, "model.embed_tokens.weight"),
    "too few layers": ("llama", lambda each: each, {"num_hidden_layers": 3}, "model.layers.2"),
    "too many layers": ("llama", lambda each: each, {"num_hidden_layers": 1}, "model.layers.1"),
    "too many blocks": ("gpt2", lambda each: each, {"n_layer": 1}, "transformer.h.1"),
    "a bias": ("llama", with_one("model.layers.1.mlp.down_proj.bias", 32), {}, "model.layers.1.mlp.down_proj.bias"),
    "a scale": ("llama", with_one(f"{DOWN}_scale", 1), {}, f"{DOWN}_scale"),
    "part of an expert": ("mixtral", without(f"{EXPERT}.w1.weight"), {}, "model.layers.0.mlp.experts.gate_up_proj"),
    "a whole expert": ("mixtral", without(*(f"{EXPERT}.w{n}.weight" for n in (1, 2, 3))), {}, "model.layers.0.mlp"),
    "another head": ("qwen2", with_one("lm_head.weight", 512, 32), {}, "tie_word_embeddings"),
    "another head's shape": ("qwen2", with_one("lm_head.weight", 500, 32), {}, "such as its head"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_files_that_do_not_fit_are_refused_by_name(misfit: str, changed: Callable[..., str]) -> None:
    family, edit, values, named = MISFITS[misfit]
    with pytest.raises(ConfigError, match="changed") as caught:
        load(changed(family, edit, **values))
    assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("misfit", sorted(MISFITS.keys() - {"no head", "another head", "another head's shape"}))
def test_a_critic_is_refused_like_a_policy(misfit: str, changed: Callable[..., str]) -> None:
    family, edit, values, named = MISFITS[misfit]
    with pytest.raises(ConfigError, match="changed") as caught:
        load_scalar(changed(family, edit, **values))
    assert named in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "mixtral"])
def test_whole_models_load_without_a_word(family: str, models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    policy, _ = load(str(models / family))
    _, _, critic_unused = load_scalar(str(models / family))
    assert policy.unused_weights is None and critic_unused is None
    assert "REPORT" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("edit", "values"),
    [
        (with_one("v_head.summary.weight", 1, 32), {}),  # TRL's value head
        (with_one("vision_tower.blocks.0.weight", 4), {}),
        (with_one("model.layers.2.self_attn.q_proj.weight", 32, 32), {"num_nextn_predict_layers": 1}),
    ],
)
def test_what_nothing_reads_is_said_and_no_obstacle(
    edit: Callable[[Weights], Weights], values: dict[str, object], changed: Callable[..., str]
) -> None:
    policy, _ = load(changed("llama", edit, **values))
    assert "does not use" in str(policy.unused_weights)


def test_rotary_buffers_of_old_checkpoints_are_no_news(changed: Callable[..., str]) -> None:
    policy, _ = load(changed("llama", with_one("model.layers.0.self_attn.rotary_emb.inv_freq", 4)))
    assert policy.unused_weights is None


def test_a_trained_head_that_is_not_there_is_never_made_anew(models: Path, changed: Callable[..., str]) -> None:
    scores = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "score"}}
    folder = changed("llama", without("lm_head.weight"), **scores)
    for trained in (False, True):  # such as the critic of a checkpoint
        with pytest.raises(ConfigError, match="score.weight"):
            load_scalar(folder, trained=trained)


def test_an_index_whose_files_are_not_all_there(models: Path, changed: Callable[..., str]) -> None:
    folder = Path(changed("llama"))
    names = sorted(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {name: f"model-0000{1 + (name == names[0])}-of-00002.safetensors" for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, **index}))
    with pytest.raises(ConfigError, match="model-00002-of-00002"):
        load(str(folder))


def test_shares_of_ranks_that_are_not_all_there(models: Path, changed: Callable[..., str]) -> None:
    folder = Path(changed("llama", without(DOWN)))
    (folder / "model.safetensors").rename(folder / "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(ConfigError, match=DOWN):
        load(str(folder))


def test_a_run_does_not_begin_on_random_weights(changed: Callable[..., str], tmp_path: Path) -> None:
    config = runs.config("sft", tmp_path / "run", changed("llama", without(DOWN)), "arithmetic", num_problems=8)
    with pytest.raises(ConfigError, match=DOWN):
        prepare(config, SignalWatcher(Silent()))


# Adapters that other programs wrote


@pytest.fixture
def adapter(models: Path, tmp_path: Path) -> Path:
    peft = pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")
    model = load(str(models / "llama"))[0].model
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("edit", [renamed("base_model", "x"), renamed("layers.0", "layers.7"), without("")])
def test_an_adapter_that_does_not_fit_is_refused(adapter: Path, edit: Callable[[Weights], Weights]) -> None:
    load_any(str(adapter))
    file = adapter / "adapter_model.safetensors"
    found = edit(load_file(file))
    found.pop("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", None)
    save_file(found, file)
    with pytest.raises(ConfigError, match=r"layers\.0\.self_attn\.q_proj\.lora_A"):
        load_any(str(adapter))


# Tokenizers of another size


def test_tokens_without_an_embedding_are_refused(models: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(models / "llama")
    number = len(tokenizer)
    assert number <= load(str(models / "llama"))[0].model.config.vocab_size
    shutil.copytree(models / "llama", tmp_path / "more")
    tokenizer.add_tokens([f"<more{n}>" for n in range(512 - number + 1)])
    tokenizer.save_pretrained(tmp_path / "more")
    for read in (load, load_scalar):
        with pytest.raises(ConfigError, match=r"511"):
            read(str(tmp_path / "more"))


def test_padding_without_an_embedding_is_never_read(models: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(models / "llama")
    shutil.copytree(models / "llama", tmp_path / "more")
    tokenizer.add_tokens([f"<more{n}>" for n in range(512 - len(tokenizer))])
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(tmp_path / "more")
    assert load(str(tmp_path / "more"))[1].pad_token_id == 512


def test_an_id_without_a_token_never_joins_what_stands_around_it(models: Path) -> None:
    policy, tokenizer = load(str(models / "llama"))
    renderer, last = Renderer(tokenizer, "none"), policy.model.config.vocab_size - 1
    assert last >= len(tokenizer)
    (four,), (two,) = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in "42")
    assert renderer.decode([four, two]) == "42"
    assert renderer.decode([four, last, two]) == "4\ufffd2"
    assert renderer.decode([last, last]) == "\ufffd\ufffd"
