"""Adapters: an adapter folder is evaluated as its base model with the adapter merged in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny
from transformers import AutoModelForCausalLM

from obverse.errors import ConfigError
from obverse.models.adapter_io import base_of, load_any

peft = pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("adapters") / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_merged_adapter_computes_what_peft_computes(base: Path, adapter: Path) -> None:
    policy, tokenizer = load_any(str(adapter))
    ids = torch.tensor([tokenizer("7+5=")["input_ids"]])
    with torch.inference_mode():
        found = policy.model(ids).logits
        wrapped = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
        torch.testing.assert_close(found, wrapped(ids).logits, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, load_any(str(base))[0].model(ids).logits, atol=1e-3)


def test_the_base_may_stand_beside_the_adapter(base: Path, adapter: Path) -> None:
    assert base_of(str(base)) is None and base_of("owner/name") is None
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    (adapter / "inside").mkdir()
    for name, expected in (("inside", str(adapter / "inside")), ("owner/name", "owner/name")):
        file.write_text(json.dumps({**config, "base_model_name_or_path": name}))
        assert base_of(str(adapter)) == expected
    file.write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="base_model_name_or_path"):
        base_of(str(adapter))


def test_what_is_missing_or_does_not_fit_is_one_sentence(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="cannot be applied to"):
        load_any(str(adapter))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match="pip install 'obverse\\[peft\\]'"):
        load_any(str(adapter))
