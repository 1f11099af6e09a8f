"""`obverse doctor`: installed packages, devices, threads and types that a run would use, and what is missing."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from obverse.cli.results_console import results_console
from obverse.config.fields import Options
from obverse.inference import SamplingParams, SamplingRequest
from obverse.redact import flat
from obverse.types import ModelInput
from obverse.version import __version__

State = Literal["ok", "note", "missing"]
STYLES: dict[State, str] = {"ok": "green", "note": "yellow", "missing": "bold red"}

NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "pydantic", "pyarrow", "math-verify")
OPTIONAL = {
    "datasets": "data sets from the hub",
    "peft": "adapters",
    "bitsandbytes": "adapters on weights in 4 bits, on CUDA",
    "resvg_py": "figures as PNG",
    "trackio": "--report_to trackio",
    "tensorboard": "--report_to tensorboard",
    "wandb": "--report_to wandb",
    "vllm": "its server (it may live in another environment)",
}
BASE = Path(__file__).parents[1] / "assets" / "base"
LITTLE_DISK = 2 * 2**30  # bytes; a few checkpoints of a small model
TYPICAL = ((2048, 896), (896, 2048))  # matrices of a model of half a billion parameters, cut
NUM_SAMPLES, MAX_TOKENS = 64, 32


@dataclass(frozen=True)
class Finding:
    """One line of the report; obverse cannot run without what is `missing`."""

    state: State
    name: str
    text: str


def run(config: Options) -> int:
    return doctor(results_console())


def doctor(console: Console) -> int:
    """Print the report; returns 0 if everything needed is present, else 1."""
    lines = list(findings())
    table = Table.grid(padding=(0, 2))
    for finding in lines:
        table.add_row(Text(finding.state, style=STYLES[finding.state]), finding.name, Text(flat(finding.text)))
    console.print(table)
    missing = [finding.name for finding in lines if finding.state == "missing"]
    console.print(Text(f"not ready: {', '.join(missing)}" if missing else "ready", style="bold"))
    return 1 if missing else 0


def findings() -> Iterator[Finding]:
    """All lines, in the order of the report."""
    yield Finding("ok", "obverse", f"{__version__}, Python {sys.version.split()[0]}")
    yield from packages()
    torch = load_torch()
    if isinstance(torch, Finding):
        yield torch
    else:
        yield from hardware(torch)
    yield from optional_packages()
    yield from folder(Path.cwd())
    embedded = base()
    yield embedded
    if embedded.state == "ok" and isinstance(torch, ModuleType):
        yield sampling()


def packages() -> Iterator[Finding]:
    """The packages that obverse needs, with their versions."""
    for name in NEEDED:
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            yield Finding("missing", name, f"not installed: pip install {name}")


def load_torch() -> ModuleType | Finding:
    """The module torch, or why it cannot be imported."""
    try:
        return importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return Finding("missing", "torch", f"cannot be loaded: {str(error).splitlines()[0]}")


def hardware(torch: ModuleType) -> Iterator[Finding]:
    """Devices, number types and cores, and the threads and the type that a run would use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16: use --dtype float32"
            yield Finding("ok", "device", f"cuda:{index} {about.name}, {about.total_memory / 2**30:.0f} GB, {bf16}")
    else:
        yield Finding("ok", "device", "cpu (no CUDA device); dtype auto is float32")
    yield Finding("ok", "cores", f"{cores}{load}")
    yield from paces()


def paces() -> Iterator[Finding]:
    """The speed of matrix products of a larger model by threads and type, and the threads that a run would use."""
    pace = importlib.import_module("obverse.models.cpu_threads")
    paces = pace.measure(TYPICAL, ("float32", "bfloat16"))
    full = [measured for measured in paces if measured.dtype == "float32"]
    chosen = pace.best(full)
    for threads in dict.fromkeys(measured.threads for measured in paces):
        speeds = ", ".join(str(measured) for measured in paces if measured.threads == threads)
        yield Finding("ok", f"{threads} thread{'s' if threads > 1 else ''}", speeds)
    yield Finding(
        "ok",
        "threads",
        f"{chosen} by this measurement, which every run repeats; 1 for models under "
        f"{pace.SMALL_MODEL // 10**6}M parameters (--threads says otherwise)",
    )
    ratio = max(measured.rate for measured in paces if measured.dtype == "bfloat16") / max(
        measured.rate for measured in full
    )
    yield Finding(
        "ok",
        "dtype",
        f"auto is float32 on a CPU; bfloat16 multiplies {ratio:.1f} times as fast here, and its weights lose small "
        "updates (--dtype says otherwise)",
    )


def optional_packages() -> Iterator[Finding]:
    """Optional packages, and their purpose."""
    for name, purpose in OPTIONAL.items():
        is_installed = find_spec(name) is not None
        text = f"installed, for {purpose}" if is_installed else f"not installed; for {purpose}"
        yield Finding("ok" if is_installed else "note", name, text)


def folder(path: Path) -> Iterator[Finding]:
    """Whether the folder can be written, and its free disk space."""
    try:
        with tempfile.NamedTemporaryFile(dir=path):
            yield Finding("ok", "folder", f"{path} can be written")
    except OSError as error:
        yield Finding(
            "missing", "folder", f"{path} cannot be written ({error.strerror}): choose another, or --output_dir"
        )
    free = shutil.disk_usage(path).free
    state: State = "ok" if free > LITTLE_DISK else "note"
    yield Finding(state, "disk", f"{free / 2**30:.1f} GB free")


def base() -> Finding:
    """The embedded base model."""
    files = [BASE / name for name in ("config.json", "model.safetensors", "tokenizer.json")]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        return Finding("missing", "embedded base", f"{', '.join(absent)} not found in {BASE}: install obverse again")
    return Finding("ok", "embedded base", f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB")


def sampling() -> Finding:
    """The sampling speed of the embedded base, which also proves that loading and sampling work."""
    models_load, models_policy = (importlib.import_module(f"obverse.models.{name}") for name in ("load", "policy"))
    engine = importlib.import_module("obverse.inference.hf")
    policy, tokenizer = models_load.load("embedded", device="cpu")
    models_policy.set_threads(0, policy)
    request = SamplingRequest(ModelInput(tuple(tokenizer("Q:7+5A:")["input_ids"])), range(NUM_SAMPLES))
    params = SamplingParams(stop_ids=(tokenizer.eos_token_id,), max_tokens=MAX_TOKENS)
    start = time.perf_counter()
    (completions,) = engine.HFSampler(policy.model).sample([request], params)
    pace = sum(len(completion.ids) for completion in completions) / (time.perf_counter() - start)
    return Finding("ok", "sampling", f"{pace:,.0f} tokens/s of the embedded base on one thread")
