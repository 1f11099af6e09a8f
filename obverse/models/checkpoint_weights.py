"""Checks that the files of a model fit its configuration: no weight missing, none of another shape or left over."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from obverse.errors import ConfigError

NUM_NAMED = 3  # weights that a message names; the others are counted
# Configuration keys of multi-token prediction layers, which transformers does not load.
EXTRA_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_layers", "mtp_num_hidden_layers")


class Report(logging.Filter):
    """A log filter that collects transformers' loading report and passes everything else on."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_report = "LOAD REPORT" in text or "tied weights mapping" in text
        self.text += text if is_report else ""
        return not is_report

    @property
    def failed(self) -> list[str]:
        """Weights that could not be assembled from those in the files, such as experts of a mixture."""
        rows = [line.split("|") for line in self.text.splitlines() if "CONVERSION" in line and "|" in line]
        return [row[0].strip() for row in rows]


@contextmanager
def reported() -> Iterator[Report]:
    """Collect transformers' loading report inside."""
    report, logger = Report(), logging.getLogger("transformers.modeling_utils")
    logger.addFilter(report)
    try:
        yield report
    finally:
        logger.removeFilter(report)


def check_weights(name: str, model: Any, info: Mapping[str, Any], new_head: bool = False) -> str | None:
    """Raise ConfigError if files and configuration of a model do not fit; a message about weights that are not used.

    `info` is transformers' `output_loading_info`. Errors are missing weights, which would be random, and weights of
    another shape, of further layers, or of modules without such a weight. The message names other surplus weights; None
    without any. With `new_head` a scalar head `score` may be missing.
    """
    where, head = f"model {name!r}", ("score.",) if new_head else ()
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(head))
    unexpected = sorted(info["unexpected_keys"])
    if model.get_output_embeddings() is None:  # a language model's head, which the scalar head replaces
        unexpected = [key for key in unexpected if key.count(".") > 1]
    shapes = {key: (tuple(saved), tuple(expected)) for key, saved, expected in info["mismatched_keys"]}
    if info["error_msgs"]:
        raise ConfigError(f"{where} cannot be loaded: {' '.join(str(info['error_msgs'][0]).split())}")
    if shapes:
        key, (saved, expected) = min(shapes.items())
        more = f" (and {len(shapes) - 1} more)" if len(shapes) > 1 else ""
        raise ConfigError(
            f"{where}: {key} has the shape {list(saved)} in its files and {list(expected)} by its config.json{more}: "
            "give files and configuration of one model"
        )
    if missing:
        surplus = f"; they hold {listed(unexpected)}, which the model does not have: rename them" if unexpected else ""
        raise ConfigError(
            f"{where}: its files lack {len(missing)} of its {len(model.state_dict())} weights, which would be random: "
            f"{listed(missing)}{surplus or ': give files and configuration of one model'}"
        )
    layers = _surplus_layers(model, unexpected)
    if layers:
        raise ConfigError(
            f"{where}: its files have layers that its config.json does not have, {listed(layers)}: "
            "give files and configuration of one model"
        )
    foreign = [key for key in unexpected if _is_of_module(model, key)]
    if foreign:
        raise ConfigError(
            f"{where}: its files have weights of modules that take none by its config.json, {listed(foreign)}: "
            "without them it computes another function; give files and configuration of one model"
        )
    _refuse_untied(where, model)
    return f"{where}: weights in its files that it does not use: {listed(unexpected)}" if unexpected else None


def check_vocabulary(name: str, model: Any, tokenizer: Any) -> None:
    """Raise ConfigError for a tokenizer with tokens that the model has no embedding for, padding excepted.

    More embeddings than tokens are normal: vocabularies are rounded up.
    """
    num_rows = model.get_input_embeddings().num_embeddings
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= num_rows}
    beyond.pop(tokenizer.pad_token_id, None)
    if beyond:
        tokens = [f"{beyond[number]!r:.40} ({number})" for number in sorted(beyond)]
        raise ConfigError(
            f"model {name!r}: its tokenizer has {len(beyond)} tokens that the model has no embedding for, the last "
            f"is {num_rows - 1}: {listed(tokens)}: give the tokenizer of its training, or resize the embeddings"
        )


def listed(names: Collection[str]) -> str:
    """The first names, and their number if there are more."""
    first = ", ".join(list(names)[:NUM_NAMED])
    return first if len(names) <= NUM_NAMED else f"{first}, ... ({len(names)} in all)"


def _surplus_layers(model: Any, unexpected: Collection[str]) -> list[str]:
    """Unexpected names that equal a weight of the model but for a number: further layers or experts."""
    prefix = f"{model.base_model_prefix}."
    patterns = {_counted(key.removeprefix(prefix), i) for key in model.state_dict() for i in _numbers(key, prefix)}
    config = model.config.get_text_config()
    num_layers = int(getattr(config, "num_hidden_layers", 0))
    num_extra = max(int(getattr(config, name, None) or 0) for name in EXTRA_LAYERS)
    allowed = {str(num_layers + n) for n in range(num_extra)}
    surplus = []
    for key in unexpected:
        plain = key.removeprefix(prefix)
        indices = [i for i in _numbers(key, prefix) if _counted(plain, i) in patterns]
        if indices and plain.split(".")[indices[0]] not in allowed:
            surplus.append(key)
    return surplus


def _numbers(key: str, prefix: str) -> list[int]:
    """The indices of the parts of a weight's name that are numbers."""
    return [index for index, part in enumerate(key.removeprefix(prefix).split(".")) if part.isdigit()]


def _counted(name: str, index: int) -> str:
    """A weight's name with `*` in place of the part `index`."""
    parts = name.split(".")
    return ".".join([*parts[:index], "*", *parts[index + 1 :]])


def _is_of_module(model: Any, key: str) -> bool:
    """Whether a weight's name belongs to a module of the model that has weights, such as the bias of a linear layer."""
    for start in (model, model.base_model):
        module = start
        for part in key.split(".")[:-1]:
            child = module._modules.get(part)
            if child is None:
                break
            module = child
        if module is not start and any(weight is not None for weight in module._parameters.values()):
            return True
    return False


def _refuse_untied(where: str, model: Any) -> None:
    """Raise ConfigError where the configuration ties weights that differ in the files."""
    untied = model.get_expanded_tied_weights_keys(all_submodels=True).keys() - model.all_tied_weights_keys.keys()
    if untied:
        raise ConfigError(
            f"{where}: its config.json ties {min(untied)} to the embeddings (tie_word_embeddings), and its files have "
            "another one: libraries differ in which they load; set it to false there, or remove the weight"
        )
