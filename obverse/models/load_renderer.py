"""The renderer of a model's tokenizer and chat template, without the model's weights."""

from __future__ import annotations

from transformers import GenerationConfig

from obverse.config.commands import DataConfig
from obverse.data.renderer import Renderer
from obverse.models.load import load_tokenizer, locate


def load_renderer(config: DataConfig) -> Renderer:
    """The renderer that a run with this model and template uses; ConfigError for a model without a tokenizer."""
    source, tokenizer = locate(str(config.model)), load_tokenizer(str(config.model))
    try:
        eos_ids = GenerationConfig.from_pretrained(source).eos_token_id
    except OSError:  # optional in a model's folder
        eos_ids = None
    return Renderer.of(tokenizer, config, eos_ids)
