"""The layers that get adapters: every linear layer in which one can learn, or those of --lora_target_modules."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from obverse.config.train import TrainConfig
from obverse.errors import ConfigError
from obverse.models.adapter_io import peft_library
from obverse.models.policy import Policy

ALL = "all-linear"
MIN_FRACTION = 0.01  # of the weights; smaller groups are not listed
PARTS = re.compile(r"\.(?:base_layer\.)+")  # in PEFT's names, between a layer and its weights


@dataclass(frozen=True)
class Targets:
    """Linear layers and parameters that get adapters, by the last part of their names where it names no other module.

    `excluded` are the whole names of layers that share a last part with targets and get none.
    """

    modules: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()

    def includes(self, name: str) -> bool:
        """Whether a linear layer with this whole name gets an adapter, by PEFT's rule."""
        return name not in self.excluded and any(f".{name}".endswith(f".{target}") for target in self.modules)


def targets(model: Any, config: TrainConfig) -> Targets:
    """The targets of adapters: every linear layer that can have one, or the layers and parameters that are named.

    A layer can have one if the output depends on it and no other layer uses its weight. Expert matrices are slices of
    one parameter and get adapters only by name, as each pass has to add the adapters to all experts' weights. Raises
    ConfigError for a name that matches nothing below the head, or cannot have an adapter.
    """
    linear = linear_layers(model)
    unfit = layers_without_effect(model, linear) | layers_with_shared_weights(model, linear)
    experts = expert_matrices(model)
    ends = {end_of(name) for name in linear}
    refused = {end for end in ends if is_refused(model, end)}
    fit = sorted(name for name in linear if name not in unfit and end_of(name) not in refused)
    wanted = config.lora_target_modules
    if wanted in ((), (ALL,)):
        ambiguous = {end_of(name) for name, _ in model.named_modules() if name not in linear}
        modules = {name if end_of(name) in ambiguous else end_of(name) for name in fit}
        return Targets(tuple(sorted(modules)), tuple(sorted(name for name in unfit if end_of(name) in modules)))
    modules = {target for target in wanted if any(f".{name}".endswith(f".{target}") for name in fit)}
    parameters = {target for target in wanted if end_of(target) in experts and target not in modules}
    if missing := [target for target in wanted if target not in modules | parameters]:
        available = ", ".join(sorted({end_of(name) for name in fit}))
        more = f"; matrices of experts: {', '.join(sorted(experts))}" if experts else ""
        raise ConfigError(
            f"--lora_target_modules: no layer that can have an adapter is called {missing[0]} "
            f"(available: {available}{more})"
        )
    return Targets(tuple(sorted(modules)), tuple(sorted(unfit)), tuple(sorted(parameters)))


def expert_matrices(model: Any) -> set[str]:
    """Names of the parameters that hold the matrices of all experts [experts, rows, columns], by their last part.

    The weight of a convolution over time has three dimensions too, and can have no adapter.
    """
    return {
        name
        for module in model.modules()
        if not isinstance(module, torch.nn.Conv1d)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and parameter.is_floating_point()
    }


def end_of(name: str) -> str:
    """The last part of a module's or parameter's name."""
    return name.rpartition(".")[2]


def linear_layers(model: Any) -> dict[str, Any]:
    """The linear layers below the head, by name."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }


def layers_without_effect(model: Any, linear: Mapping[str, Any]) -> set[str]:
    """Layers in which an adapter would not learn, found by a forward pass of four tokens with hooks.

    Their parent module uses the weight without calling the layer (Mamba's step projection), no gradient reaches the
    layer's output (the indexer of sparse attention, which only selects keys), or the class computes something else than
    a product with its matrix. Layers of modules that were not called
    themselves, such as unused experts, are not included.
    """
    probes: dict[int, Tensor] = {}
    called: set[int] = set()
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in linear}

    def add_probe(module: Any, _: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor) or output.shape[-1] != getattr(module, "out_features", output.shape[-1]):
            return None  # a router, or a product by groups of inputs (DeepSeek-V4): PEFT would add another shape
        probe = probes.setdefault(id(module), torch.zeros((), device=output.device, requires_grad=True))
        return output + probe

    hooks = [module.register_forward_hook(add_probe) for module in linear.values()]
    hooks += [owner.register_forward_pre_hook(lambda owner, _: called.add(id(owner))) for owner in owners.values()]
    try:
        with torch.enable_grad():
            ids = torch.ones(1, 4, dtype=torch.long, device=model.device)
            total = model(input_ids=ids, use_cache=False).logits.float().sum()
            gradients = torch.autograd.grad(total, list(probes.values()), allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    effective = {module for module, gradient in zip(probes, gradients, strict=True) if gradient is not None}
    return {name for name, module in linear.items() if id(owners[name]) in called and id(module) not in effective}


def layers_with_shared_weights(model: Any, linear: Mapping[str, Any]) -> set[str]:
    """Layers whose weight is also that of another module: merged weights could not hold an adapter for each of them."""
    uses = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    return {name for name, module in linear.items() if uses[id(module.weight)] > 1}


def is_refused(model: Any, end: str) -> bool:
    """Whether PEFT refuses layers of that name in this type of model, or maps the name to others (experts)."""
    library = peft_library()
    config, tuners_utils = library.LoraConfig(target_modules=[end]), library.tuners.tuners_utils
    check = getattr(tuners_utils, "_check_lora_target_modules_mamba", lambda *_: None)
    try:
        check(config, model, end)
        library.utils.transformers_weight_conversion.convert_peft_config_for_transformers(config, model, None)
    except ValueError:
        return True
    return end not in config.target_modules


def coverage(policy: Policy) -> str:
    """One line on the layers with and without adapters, and their fractions of the weights.

    Example: "28 layers (down_proj, o_proj, q_proj), 71% of the weights; without: mlp.experts.down_proj 12%"
    """
    adapter, total = policy.adapter, sum(weight.numel() for _, weight in base_parameters(policy.model))
    adapted = {id(matrix_of(layer)): matrix_of(layer) for layer in adapter.layers}
    names, uncovered = set(), Counter[str]()
    for name, weight in base_parameters(policy.model):
        layer_name = PARTS.sub(".", name).removesuffix(".weight")
        if id(weight) in adapted:
            names.add(end_of(layer_name))
        elif weight.ndim > 1:
            uncovered[".".join([part for part in layer_name.split(".") if not part.isdigit()][-3:])] += weight.numel()
    fraction = sum(weight.numel() for weight in adapted.values()) / total
    listed = [f"{name} {size / total:.0%}" for name, size in uncovered.most_common(4) if size / total >= MIN_FRACTION]
    without = f"; without: {', '.join(listed)}" if listed else ""
    return f"{len(adapter.layers)} layers ({', '.join(sorted(names))}), {fraction:.0%} of the weights{without}"


def base_parameters(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """The base model's weights with their names, without those of adapters."""
    return [(name, weight) for name, weight in model.named_parameters() if ".lora_" not in name]


def matrix_of(layer: Any) -> torch.nn.Parameter:
    """The weight to which an adapter is added."""
    name = getattr(layer, "parameter_name", "weight")
    weight: torch.nn.Parameter = getattr(layer.get_base_layer(), name)
    return weight
