"""The renderer of a model's tokenizer and chat template, without the model's weights."""

from __future__ import annotations

from transformers import AutoTokenizer, GenerationConfig

from obverse.config.commands import DataConfig
from obverse.data.renderer import Renderer
from obverse.errors import ConfigError
from obverse.models.load import locate


def load_renderer(config: DataConfig) -> Renderer:
    """The renderer that a run with this model and template uses; ConfigError for a model without a tokenizer."""
    source = locate(str(config.model))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model: {config.model} has no tokenizer: {str(error).splitlines()[0]}") from None
    try:
        eos_ids = GenerationConfig.from_pretrained(source).eos_token_id
    except OSError:  # optional in a model's folder
        eos_ids = None
    return Renderer.of(tokenizer, config, eos_ids)
