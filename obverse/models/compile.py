"""Compilation of decoder layers by torch for training. Sampling uses the uncompiled layers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from obverse.errors import ConfigError
from obverse.models.cache_layers import native_layers
from obverse.models.decoder_layers import decoder_layers

COMPILERS = ("g++", "clang++", "c++")


class ForwardSwitch:
    """Whether the layers of one model run their compiled forward; off except inside `compiled`."""

    def __init__(self) -> None:
        self.is_compiled = False

    @contextmanager
    def compiled(self) -> Iterator[None]:
        """Inside, the layers run their compiled forward."""
        before, self.is_compiled = self.is_compiled, True
        try:
            yield
        finally:
            self.is_compiled = before

    def choose(self, eager: Callable[..., Any], compiled: Callable[..., Any]) -> Callable[..., Any]:
        """A layer's forward that calls `compiled` while the switch is on, and `eager` otherwise."""

        @wraps(eager)
        def forward(layer: Any, *args: Any, **kwargs: Any) -> Any:
            return (compiled if self.is_compiled else eager)(layer, *args, **kwargs)

        return forward


def compile_layers(model: Any) -> Callable[[], AbstractContextManager[None]]:
    """Give every decoder layer a second, compiled forward; returns the context manager inside which it is run.

    A layer's `forward` is replaced once. Modules and parameters keep their names, and a deep copy of the model has
    forwards of its own layers. Layers of one class share the compiled code, which torch makes at their first pass.
    Batch sizes and lengths are dynamic: micro batches of other shapes are not compiled again. Raises ConfigError where
    no compiler is installed, the model has no layers to compile, or they are recurrent.
    """
    refuse_without_compiler(model.device.type)
    layers = decoder_layers(model)
    if not layers:
        raise ConfigError(f"--torch_compile: {type(model).__name__} has no layers that could be compiled: leave it out")
    if has_recurrent_layers(model):
        raise ConfigError(
            f"--torch_compile: the recurrent layers of {type(model).__name__} cannot be compiled for batches of "
            "unequal lengths: leave it out"
        )
    switch = ForwardSwitch()
    kinds: set[Any] = set(map(type, layers))
    forwards = {kind: switch.choose(kind.forward, torch.compile(kind.forward, dynamic=True)) for kind in kinds}
    for layer in layers:
        layer.forward = MethodType(forwards[type(layer)], layer)
    return switch.compiled


def has_recurrent_layers(model: Any) -> bool:
    """Whether a layer of the model carries a recurrent state from token to token; a convolution's is not one."""
    types = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ()
    layers = native_layers(model)
    is_convolution = [kind == "conv" for kind in types] if len(types) == len(layers) else [False] * len(layers)
    return any(
        isinstance(layer, LinearAttentionCacheLayerMixin) and not conv
        for layer, conv in zip(layers, is_convolution, strict=True)
    )


def refuse_without_compiler(device: str) -> None:
    """Raise ConfigError where torch.compile has no backend compiler: a C++ compiler for CPUs, triton for CUDA."""
    if device == "cuda":
        if find_spec("triton") is None:
            raise ConfigError("--torch_compile: install triton, which compiles for CUDA, or leave it out")
    elif device != "cpu":
        raise ConfigError(f"--torch_compile: nothing compiles for {device} here: leave it out")
    elif not any(map(shutil.which, (os.environ.get("CXX", "g++"), *COMPILERS))):
        raise ConfigError(
            "--torch_compile: a CPU needs a C++ compiler: install g++ or name one in CXX, or leave it out"
        )
