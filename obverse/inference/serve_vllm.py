"""`obverse serve-vllm`: a stock vLLM server with what a run needs of it switched on."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping

from obverse.config.commands import ServeConfig
from obverse.errors import ConfigError
from obverse.models.load import EMBEDDED
from obverse.redact import flat

# Switches on the endpoints that load weights and report their version, and switches off usage statistics.
ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}


def command(config: ServeConfig) -> list[str]:
    """The arguments of the server's command line. ConfigError for a `vllm_args` that a shell could not split."""
    try:
        extra_args = shlex.split(config.vllm_args)
    except ValueError as error:
        raise ConfigError(f"--vllm_args: {config.vllm_args!r}: {error}") from None
    model = str(EMBEDDED) if config.model == "embedded" else config.model
    length = ["--max-model-len", str(config.max_model_len)] if config.max_model_len else []
    return [
        *(config.program, "serve", model, "--host", config.host, "--port", str(config.port), "--dtype", config.dtype),
        *length,
        "--enable-scale-out",  # token ids in, token ids out
        *("--logprobs-mode", "processed_logprobs"),  # after temperature and truncation
        *("--generation-config", "vllm"),  # no sampling options from the model's folder
        "--enable-prefix-caching",  # a group's prompt is computed once
        *extra_args,
    ]


def environment(config: ServeConfig, given: Mapping[str, str]) -> dict[str, str]:
    """The server's environment; the folder of its program is first on PATH, for programs that the server starts."""
    variables = {**ENVIRONMENT, **given, "VLLM_SERVER_DEV_MODE": "1"}
    if os.sep in config.program:
        variables["PATH"] = os.pathsep.join([os.path.dirname(os.path.abspath(config.program)), given.get("PATH", "")])
    return variables


def serve(config: ServeConfig, dry: bool = False) -> int:
    """Replace this process by the server, or with `dry` print its command. ConfigError if the program is not found."""
    arguments = command(config)
    if dry:
        print(flat(shlex.join([*(f"{name}={value}" for name, value in ENVIRONMENT.items()), *arguments])))
    elif shutil.which(config.program) is None:
        raise ConfigError(
            f"--program: {config.program} is not found or cannot be run: install vLLM 0.32 or newer in an environment "
            "of its own (see docs/vllm.md), and give the path of its vllm"
        )
    else:
        os.execvpe(config.program, arguments, environment(config, os.environ))
    return 0
