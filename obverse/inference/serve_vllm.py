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

# The endpoints that take weights and say which; and no word to anybody about who uses it.
ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}


def command(config: ServeConfig) -> list[str]:
    """The words of the server's command line. ConfigError for a `vllm_args` that no shell could read."""
    try:
        more = shlex.split(config.vllm_args)
    except ValueError as error:
        raise ConfigError(f"--vllm_args: {config.vllm_args!r}: {error}") from None
    model = str(EMBEDDED) if config.model == "embedded" else config.model
    length = ["--max-model-len", str(config.max_model_len)] if config.max_model_len else []
    return [
        *(config.program, "serve", model, "--host", config.host, "--port", str(config.port), "--dtype", config.dtype),
        *length,
        "--enable-scale-out",  # token ids in, token ids out
        *("--logprobs-mode", "processed_logprobs"),  # of the law that is sampled, temperature and cuts included
        *("--generation-config", "vllm"),  # no sampling options from the model's folder
        "--enable-prefix-caching",  # a group's prompt is computed once
        *more,
    ]


def environment(config: ServeConfig, given: Mapping[str, str]) -> dict[str, str]:
    """The server's environment; its program's folder comes first, for what the server starts itself."""
    found = {**ENVIRONMENT, **given, "VLLM_SERVER_DEV_MODE": "1"}
    if os.sep in config.program:
        found["PATH"] = os.pathsep.join([os.path.dirname(os.path.abspath(config.program)), given.get("PATH", "")])
    return found


def serve(config: ServeConfig, dry: bool = False) -> int:
    """Become the server, or with `dry` print its command. Raises ConfigError where there is no such program."""
    words = command(config)
    if dry:
        print(flat(shlex.join([*(f"{name}={value}" for name, value in ENVIRONMENT.items()), *words])))
    elif shutil.which(config.program) is None:
        raise ConfigError(
            f"--program: {config.program} is not found or cannot be run: install vLLM 0.32 or newer in an environment "
            "of its own (see docs/vllm.md), and give the path of its vllm"
        )
    else:
        os.execvpe(config.program, words, environment(config, os.environ))
    return 0
