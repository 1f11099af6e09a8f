"""Low-rank adapters (LoRA, 2106.09685) on a frozen base: what learns, what is off, what a checkpoint keeps.

PEFT puts them into the model's layers in place. The policy has them on; the initial model is the same layers with them
off, which is the base bit for bit; what a later stage of a course begins from is a frozen second set. There is one base
in memory.
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

LEARNING = "default"  # PEFT's name of the adapter that learns; others are frozen

# QLoRA (2305.14314, section 3): normal floats, constants quantized too, products in bfloat16.
FOUR_BITS = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": torch.bfloat16,
}


class Adapter:
    """One set of adapters in a model, which a checkpoint keeps in place of the model: PEFT's own folder layout.

    `origin` says which base they belong on.
    """

    def __init__(self, wrapped: Any, name: str, origin: Origin) -> None:
        self.wrapped, self.name, self.origin = wrapped, name, origin
        kind = peft_library().tuners.lora.LoraLayer
        self.layers = [module for module in wrapped.modules() if isinstance(module, kind)]

    def named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The adapters' weights alone, as the model names them."""
        found = self.wrapped.get_base_model().named_parameters()
        return [(name, each) for name, each in found if f".{self.name}." in name]

    def parameters(self) -> list[torch.nn.Parameter]:
        return [each for _, each in self.named_parameters()]

    def tensors(self) -> dict[str, Tensor]:
        """The weights by the names that PEFT's files have."""
        found = peft_library().get_peft_model_state_dict(
            self.wrapped, adapter_name=self.name, save_embedding_layers=False
        )
        return {name: each.detach().contiguous() for name, each in sorted(found.items())}

    def restore(self, folder: Path) -> None:
        """Take the weights of an adapter's folder; CheckpointError where they are of other layers or another rank."""
        saved, own = load_file(folder / WEIGHTS), self.tensors()
        differing = sorted(saved.keys() ^ own.keys())
        differing += [name for name in saved.keys() & own.keys() if saved[name].shape != own[name].shape]
        if differing:
            raise CheckpointError(
                f"adapter {folder}: {differing[0]} is not as lora_r and lora_target_modules make it: give them as they "
                "were"
            )
        peft_library().set_peft_model_state_dict(self.wrapped, saved, adapter_name=self.name)

    def save_pretrained(self, folder: Path) -> None:
        """Write PEFT's folder: transformers and vLLM load it on the base that it names; and our word on that base."""
        folder.mkdir(parents=True, exist_ok=True)
        config = self.wrapped.peft_config[self.name].to_dict()
        config |= {"base_model_name_or_path": self.origin.place, "inference_mode": True}
        plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
        (folder / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(self.tensors(), folder / WEIGHTS, metadata={"format": "pt"})
        self.origin.write(folder)

    def scope(self) -> AbstractContextManager[None]:
        """Inside, the model has these adapters, and no others."""
        return self._switched(lambda layer: layer.set_adapter(self.name))

    def without(self) -> AbstractContextManager[None]:
        """Inside, the model is its base."""
        return self._switched(lambda layer: layer.enable_adapters(False))

    @contextmanager
    def _switched(self, switch: Callable[[Any], None]) -> Iterator[None]:
        try:
            for layer in self.layers:
                switch(layer)
            self.freeze_others()  # PEFT freezes what it switches off, and a graph may be waiting for its gradient
            yield
        finally:
            for layer in self.layers:
                layer.set_adapter(LEARNING)
                layer.enable_adapters(True)
            self.freeze_others()

    def freeze_others(self) -> None:
        """Only the adapter that learns takes a gradient, whichever is on."""
        for layer in self.layers:
            for table in (layer.lora_A, layer.lora_B):
                for name, matrix in table.items():
                    matrix.requires_grad_(name == LEARNING)


def refuse_unready(config: TrainConfig) -> None:
    """Raise ConfigError where adapters are asked for and this machine cannot have them; before anything is loaded."""
    if not config.use_peft:
        return
    peft_library()
    device = pick_device(config.device)
    if config.load_in_4bit and not device.startswith("cuda"):
        raise ConfigError(f"--load_in_4bit: 4 bits need a CUDA device, and this run is on {device}: leave it out")
    if config.load_in_4bit and installed("bitsandbytes") is None:
        raise ConfigError("--load_in_4bit: install the library bitsandbytes, pip install 'obverse[gpu]'")


def remarks(config: TrainConfig, has_critic: bool) -> list[str]:
    """What must be said of a run with adapters before it starts; nothing of one without."""
    if not config.use_peft:
        return []
    found, origin = [], config.origin("learning_rate")
    if origin in ("paper", "embedded preset"):
        whose = "the paper's" if origin == "paper" else "the embedded preset's"
        found.append(
            f"learning_rate {config.learning_rate:g} is {whose}, for whole weights; adapters want one of their own: "
            "--learning_rate"
        )
    if has_critic:
        found.append("the critic trains whole, in float32: adapters are the policy's alone")
    return found


def load_adapted(config: TrainConfig, start: Path | None) -> tuple[Policy, Any]:
    """The policy with adapters on the frozen base, and its tokenizer; the adapters of the checkpoint `start`, if given.

    Frozen weights need no float32 to keep small steps: `dtype` auto is bfloat16 for them on an accelerator, and the
    adapters are float32. Raises ConfigError for layers that are not there, CheckpointError for an adapter that is of
    another base or shape.
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
    """What transformers is asked to load a base in 4 bits with (QLoRA)."""
    device = torch.device(pick_device(config.device))
    return {"quantization_config": BitsAndBytesConfig(**FOUR_BITS), "device_map": {"": device}}


def inject(model: Any, config: TrainConfig) -> Any:
    """Put fresh adapters into a model, which is frozen; returns PEFT's wrapper around it.

    A is drawn from the run's seed, B is zero: the policy begins as the base.
    """
    library, wanted = peft_library(), targets(model, config)
    made = library.LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        target_modules=list(wanted.modules),
        exclude_modules=list(wanted.excluded) or None,
        target_parameters=list(wanted.parameters) or None,
        use_rslora=config.use_rslora,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what it sets right by itself: how a Conv1D holds its matrix
        torch.manual_seed(seed_for(config.seed, "adapter"))
        try:
            return library.get_peft_model(model, made, adapter_name=LEARNING)
        except ValueError as error:
            raise ConfigError(f"--use_peft: {' '.join(str(error).split())}") from None


def without(policy: Policy) -> Policy:
    """The initial model: the policy with its adapters off."""
    return replace(policy, scope=policy.adapter.without, adapter=None)


def frozen(policy: Policy, folder: Path | None = None) -> Policy:
    """The policy as it is now, or as an adapter's folder has it, frozen: a second set of adapters on the same base."""
    now: Adapter = policy.adapter
    name = f"initial_{len(now.wrapped.peft_config)}"
    with torch.random.fork_rng():
        now.wrapped.add_adapter(name, now.wrapped.peft_config[LEARNING])
    copy = Adapter(now.wrapped, name, now.origin)
    if folder is None:
        peft_library().set_peft_model_state_dict(now.wrapped, now.tensors(), adapter_name=name)
    else:
        now.origin.refuse_other(folder)
        copy.restore(folder)
    policy.model.eval()
    copy.freeze_others()
    return replace(policy, scope=copy.scope, adapter=copy)


@torch.no_grad()
def merged(policy: Policy, part: Any = None) -> dict[str, Tensor]:
    """The weights of the policy, or of a `part` of its model, with the adapters added, by their names without adapters.

    Every other weight is the base's own tensor. Raises ConfigError for a base in 4 bits.
    """
    if getattr(policy.model, "is_loaded_in_4bit", False):
        raise ConfigError("a base in 4 bits has no weights that adapters could be added to: leave --load_in_4bit out")
    found: dict[str, Tensor] = {}
    sums = {id(matrix_of(layer)): layer for layer in policy.adapter.layers}
    for name, weight in (part or policy.model).state_dict(keep_vars=True).items():
        if ".lora_" in name:
            continue
        layer = sums.get(id(weight))
        plain = PARTS.sub(".", name)
        found[plain] = weight.detach()
        if layer is not None:
            found[plain] = (weight + layer.get_delta_weight(policy.adapter.name)).to(weight.dtype)
    return found
