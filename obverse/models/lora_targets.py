"""The layers that get adapters: every linear layer that is called, or those of --lora_target_modules."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from obverse.config.train import TrainConfig
from obverse.errors import ConfigError
from obverse.models.adapter_io import peft_library
from obverse.models.policy import Policy

ALL = "all-linear"
MIN_SHARE = 0.01  # of the weights; smaller groups are not listed
PARTS = re.compile(r"\.(?:base_layer\.)+")  # what PEFT puts between a layer and its own weights


@dataclass(frozen=True)
class Targets:
    """Linear layers and parameters that get adapters, by the last part of their names; `excluded` has whole names."""

    modules: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()


def targets(model: Any, config: TrainConfig) -> Targets:
    """The targets of adapters: every linear layer that is called, or the layers and parameters that are named.

    Expert matrices are slices of one parameter and get adapters only by name, as each pass has to add the adapters to
    all experts' weights. Raises ConfigError for a name that matches nothing below the head, or cannot have an adapter.
    """
    linear = linear_layers(model)
    unread = unread_layers(model, linear)
    experts = {end_of(name) for name, each in model.named_parameters() if each.ndim == 3 and each.is_floating_point()}
    ends = {end_of(name) for name in linear}
    refused = {end for end in ends if is_refused(model, end)}
    fit = sorted(name for name in linear if name not in unread and end_of(name) not in refused)
    wanted = config.lora_target_modules
    if wanted in ((), (ALL,)):
        modules = {end_of(name) for name in fit}
        return Targets(tuple(sorted(modules)), tuple(sorted(name for name in unread if end_of(name) in modules)))
    modules = {each for each in wanted if any(f".{name}".endswith(f".{each}") for name in fit)}
    parameters = {each for each in wanted if end_of(each) in experts and each not in modules}
    if missing := [each for each in wanted if each not in modules | parameters]:
        known = ", ".join(sorted({end_of(name) for name in fit}))
        more = f"; matrices of experts: {', '.join(sorted(experts))}" if experts else ""
        raise ConfigError(
            f"--lora_target_modules: no layer that can have an adapter is called {missing[0]} (there: {known}{more})"
        )
    return Targets(tuple(sorted(modules)), tuple(sorted(unread)), tuple(sorted(parameters)))


def end_of(name: str) -> str:
    return name.rpartition(".")[2]


def linear_layers(model: Any) -> dict[str, Any]:
    """The linear layers below the head, by name."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }


def unread_layers(model: Any, linear: Mapping[str, Any]) -> set[str]:
    """Layers whose parent module uses their weight without calling them, so that an adapter would have no effect.

    Found by a forward pass with hooks (an example is Mamba's step projection). Layers of modules that were not called
    themselves, such as unused experts, are not included.
    """
    called: set[int] = set()
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in linear}
    watched = {id(module): module for module in (*linear.values(), *owners.values())}
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(id(module))) for module in watched.values()]
    try:
        with torch.no_grad():
            model(input_ids=torch.ones(1, 4, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name for name, module in linear.items() if id(owners[name]) in called and id(module) not in called}


def is_refused(model: Any, end: str) -> bool:
    """Whether PEFT refuses layers of that name in this type of model, or maps the name to others (experts)."""
    library = peft_library()
    asked, parts = library.LoraConfig(target_modules=[end]), library.tuners.tuners_utils
    check = getattr(parts, "_check_lora_target_modules_mamba", lambda *_: None)
    try:
        check(asked, model, end)
        library.utils.transformers_weight_conversion.convert_peft_config_for_transformers(asked, model, None)
    except ValueError:
        return True
    return end not in asked.target_modules


def coverage(policy: Policy) -> str:
    """One line on the layers with and without adapters, and their shares of the weights.

    Example: "28 layers (down_proj, o_proj, q_proj), 71% of the weights; without: mlp.experts.down_proj 12%"
    """
    adapter, total = policy.adapter, sum(each.numel() for _, each in base_parameters(policy.model))
    under = {id(matrix_of(layer)): matrix_of(layer) for layer in adapter.layers}
    names, left = set(), Counter[str]()
    for name, each in base_parameters(policy.model):
        plain = PARTS.sub(".", name)
        if id(each) in under:
            names.add(end_of(plain.removesuffix(".weight")))
        elif each.ndim > 1:
            left[".".join([part for part in plain.removesuffix(".weight").split(".") if not part.isdigit()][-3:])] += (
                each.numel()
            )
    share = sum(each.numel() for each in under.values()) / total
    others = [f"{name} {number / total:.0%}" for name, number in left.most_common(4) if number / total >= MIN_SHARE]
    without = f"; without: {', '.join(others)}" if others else ""
    return f"{len(adapter.layers)} layers ({', '.join(sorted(names))}), {share:.0%} of the weights{without}"


def base_parameters(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """The base's weights, by their names among the adapters."""
    return [(name, each) for name, each in model.named_parameters() if ".lora_" not in name]


def matrix_of(layer: Any) -> torch.nn.Parameter:
    """The weight that an adapter is added to."""
    name = getattr(layer, "parameter_name", "weight")
    weight: torch.nn.Parameter = getattr(layer.get_base_layer(), name)
    return weight
