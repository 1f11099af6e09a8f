"""Layers compiled by torch for training, beside their plain way: which is taken is decided per pass."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from obverse.errors import ConfigError

COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True)
class Compiled:
    """Layers with their compiled forward. They share one piece of code, which is compiled once for all of them."""

    layers: tuple[tuple[Any, Callable[..., Any]], ...] = ()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Inside, the layers compute the compiled way."""
        for layer, forward in self.layers:
            layer.forward = forward
        try:
            yield
        finally:
            for layer, _ in self.layers:
                vars(layer).pop("forward", None)  # the class's own is behind it


PLAIN = Compiled()


def compiled_layers(model: Any) -> Compiled:
    """The decoder layers of a model, to be compiled at their first pass; ConfigError where nothing can compile.

    Batches and lengths are free in the compiled code: micro batches of other shapes do not compile again.
    """
    refuse_without_compiler(model.device.type)
    layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(f"--torch_compile: {type(model).__name__} has no layers that could be compiled: leave it out")
    return Compiled(tuple((layer, torch.compile(layer.forward, dynamic=True)) for layer in layers))


def refuse_without_compiler(device: str) -> None:
    """Raise ConfigError where torch would find nothing to compile with: C++ for a CPU, triton for CUDA."""
    if device == "cuda":
        if find_spec("triton") is None:
            raise ConfigError("--torch_compile: install triton, which compiles for CUDA, or leave it out")
    elif device != "cpu":
        raise ConfigError(f"--torch_compile: nothing compiles for {device} here: leave it out")
    elif not any(map(shutil.which, (os.environ.get("CXX", "g++"), *COMPILERS))):
        raise ConfigError(
            "--torch_compile: a CPU needs a C++ compiler: install g++ or name one in CXX, or leave it out"
        )
