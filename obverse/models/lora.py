"""Low-rank adapters (LoRA, 2106.09685) on a frozen base model: creation, activation, saving and merging.

PEFT puts adapters into the model's layers in place. The policy runs with its adapter on. The reference model is the
same model with adapters off, or, for a later stage of a training schedule, with a frozen second adapter. So only one
base model is in memory.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, BitsAndBytesConfig

from obverse.config.train import TrainConfig
from obverse.errors import CheckpointError, ConfigError
from obverse.models.adapter_io import CONFIG, WEIGHTS, Origin, peft_library
from obverse.models.checkpoint_weights import check_vocabulary
from obverse.models.load import load, pick_device
from obverse.models.lora_targets import PARTS, matrix_of, targets
from obverse.models.policy import Policy
from obverse.runtime.run_dir import installed
from obverse.seeds import seed_for

LEARNING = "default"  # PEFT's name of the trained adapter; others are frozen

# QLoRA (2305.14314, section 3): normal floats, quantized constants, products in bfloat16.
FOUR_BITS = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": torch.bfloat16,
}


class Adapter:
    """One named adapter of a model, saved in PEFT's folder layout in place of the model.

    `origin` identifies the base model.
    """

    def __init__(self, wrapped: Any, name: str, origin: Origin) -> None:
        self.wrapped, self.name, self.origin = wrapped, name, origin
        kind = peft_library().tuners.lora.LoraLayer
        self.layers = [module for module in wrapped.modules() if isinstance(module, kind)]

    def named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The adapter's weights, by their names in the model."""
        named = self.wrapped.get_base_model().named_parameters()
        return [(name, weight) for name, weight in named if f".{self.name}." in name]

    def parameters(self) -> list[torch.nn.Parameter]:
        return [weight for _, weight in self.named_parameters()]

    def tensors(self) -> dict[str, Tensor]:
        """The weights by their names in PEFT's files."""
        weights = peft_library().get_peft_model_state_dict(
            self.wrapped, adapter_name=self.name, save_embedding_layers=False
        )
        return {name: weight.detach().contiguous() for name, weight in sorted(weights.items())}

    def restore(self, folder: Path) -> None:
        """Load the weights of an adapter's folder. Raises CheckpointError for other layers or another rank."""
        saved, present = load_file(folder / WEIGHTS), self.tensors()
        differing = sorted(saved.keys() ^ present.keys())
        differing += [name for name in saved.keys() & present.keys() if saved[name].shape != present[name].shape]
        if differing:
            raise CheckpointError(
                f"adapter {folder}: {differing[0]} is not as lora_r and lora_target_modules make it: give them as they "
                "were"
            )
        peft_library().set_peft_model_state_dict(self.wrapped, saved, adapter_name=self.name)

    def save_pretrained(self, folder: Path) -> None:
        """Write a PEFT folder, which transformers and vLLM load, and a file that identifies the base model."""
        folder.mkdir(parents=True, exist_ok=True)
        config = self.wrapped.peft_config[self.name].to_dict()
        config |= {"base_model_name_or_path": self.origin.place, "inference_mode": True}
        plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
        (folder / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(self.tensors(), folder / WEIGHTS, metadata={"format": "pt"})
        self.origin.write(folder)

    def scope(self) -> AbstractContextManager[None]:
        """Inside, this adapter alone is active."""
        return self._switched(lambda layer: layer.set_adapter(self.name))

    def without(self) -> AbstractContextManager[None]:
        """Inside, all adapters are off."""
        return self._switched(lambda layer: layer.enable_adapters(False))

    @contextmanager
    def _switched(self, switch: Callable[[Any], None]) -> Iterator[None]:
        try:
            for layer in self.layers:
                switch(layer)
            self.freeze_others()  # PEFT freezes what it switches off, but a graph may still need its gradient
            yield
        finally:
            for layer in self.layers:
                layer.set_adapter(LEARNING)
                layer.enable_adapters(True)
            self.freeze_others()

    def freeze_others(self) -> None:
        """Require gradients for the trained adapter alone, whichever is active."""
        for layer in self.layers:
            for table in (layer.lora_A, layer.lora_B):
                for name, matrix in table.items():
                    matrix.requires_grad_(name == LEARNING)


def refuse_unready(config: TrainConfig) -> None:
    """Raise ConfigError if the options need adapters and a library or device for them is missing."""
    if not config.use_peft:
        return
    peft_library()
    device = pick_device(config.device)
    if config.load_in_4bit and not device.startswith("cuda"):
        raise ConfigError(f"--load_in_4bit: 4 bits need a CUDA device, and this run is on {device}: leave it out")
    if config.load_in_4bit and installed("bitsandbytes") is None:
        raise ConfigError("--load_in_4bit: install the library bitsandbytes, pip install 'obverse[gpu]'")


def remarks(config: TrainConfig, has_critic: bool) -> list[str]:
    """Notes on a run with adapters before it starts; empty without adapters."""
    if not config.use_peft:
        return []
    notes, origin = [], config.origin("learning_rate")
    if origin in ("paper", "embedded preset"):
        source = "the paper's" if origin == "paper" else "the embedded preset's"
        notes.append(
            f"learning_rate {config.learning_rate:g} is {source}, for whole weights; adapters want one of their own: "
            "--learning_rate"
        )
    if has_critic:
        notes.append("the critic trains whole, in float32: adapters are the policy's alone")
    return notes


def load_adapted(config: TrainConfig, start: Path | None) -> tuple[Policy, Any]:
    """The policy with an adapter on a frozen base model, and its tokenizer; `start` is a checkpoint of the adapter.

    On an accelerator `dtype` auto is bfloat16 for the frozen weights; the adapter is float32. Raises ConfigError for
    missing layers, CheckpointError for an adapter of another base or shape.
    """
    options = quantized(config) if config.load_in_4bit else {}
    policy, tokenizer = load(config.model, config.dtype, config.device, **options)
    origin = Origin.of(config.model)
    if start:
        refuse_whole(start)
        origin.refuse_other(start)
        tokenizer = AutoTokenizer.from_pretrained(str(start), trust_remote_code=False)
        check_vocabulary(str(start), policy.model, tokenizer)
    adapter = Adapter(inject(policy.model, config), LEARNING, origin)
    policy.model.eval()
    if start:
        adapter.restore(start)
    return replace(policy, adapter=adapter), tokenizer


def refuse_whole(start: Path) -> None:
    """Raise CheckpointError for a checkpoint that holds no adapter."""
    if not (start / CONFIG).is_file():
        raise CheckpointError(
            f"checkpoint {start} holds a whole model and no adapter: leave use_peft out, or give it as --model to a "
            "run of its own"
        )


def quantized(config: TrainConfig) -> dict[str, Any]:
    """The options of transformers for a base model in 4 bits (QLoRA)."""
    device = torch.device(pick_device(config.device))
    return {"quantization_config": BitsAndBytesConfig(**FOUR_BITS), "device_map": {"": device}}


def inject(model: Any, config: TrainConfig) -> Any:
    """Put a new adapter into a model and freeze the model; returns PEFT's wrapper.

    A is drawn with the run's seed and B is zero, so that the policy begins as the base model.
    """
    library, target = peft_library(), targets(model, config)
    lora_config = library.LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        target_modules=list(target.modules),
        exclude_modules=list(target.excluded) or None,
        target_parameters=list(target.parameters) or None,
        use_rslora=config.use_rslora,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the transposed matrix of a Conv1D, which PEFT handles
        torch.manual_seed(seed_for(config.seed, "adapter"))
        try:
            return library.get_peft_model(model, lora_config, adapter_name=LEARNING)
        except ValueError as error:
            raise ConfigError(f"--use_peft: {' '.join(str(error).split())}") from None


def without(policy: Policy) -> Policy:
    """The reference model of a run with adapters: the policy with adapters off."""
    return replace(policy, scope=policy.adapter.without, adapter=None)


def frozen(policy: Policy, folder: Path | None = None) -> Policy:
    """A frozen copy of the policy, or the policy of an adapter's folder, as a second adapter on the same base model."""
    adapter: Adapter = policy.adapter
    name = f"initial_{len(adapter.wrapped.peft_config)}"
    with torch.random.fork_rng():
        adapter.wrapped.add_adapter(name, adapter.wrapped.peft_config[LEARNING])
    copy = Adapter(adapter.wrapped, name, adapter.origin)
    if folder is None:
        peft_library().set_peft_model_state_dict(adapter.wrapped, adapter.tensors(), adapter_name=name)
    else:
        adapter.origin.refuse_other(folder)
        copy.restore(folder)
    policy.model.eval()
    copy.freeze_others()
    return replace(policy, scope=copy.scope, adapter=copy)


@torch.no_grad()
def merged(policy: Policy, part: Any = None) -> dict[str, Tensor]:
    """The weights of the policy, or of a `part` of its model, with the adapter added, by the base model's names.

    Weights without an adapter are the base's tensors, not copies. Raises ConfigError for a base in 4 bits.
    """
    if getattr(policy.model, "is_loaded_in_4bit", False):
        raise ConfigError("a base in 4 bits has no weights that adapters could be added to: leave --load_in_4bit out")
    weights: dict[str, Tensor] = {}
    adapted = {id(matrix_of(layer)): layer for layer in policy.adapter.layers}
    for name, weight in (part or policy.model).state_dict(keep_vars=True).items():
        if ".lora_" in name:
            continue
        layer = adapted.get(id(weight))
        plain = PARTS.sub(".", name)
        weights[plain] = weight.detach()
        if layer is not None:
            weights[plain] = (weight + layer.get_delta_weight(policy.adapter.name)).to(weight.dtype)
    return weights
