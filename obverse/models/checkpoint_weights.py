"""Whether the files of a model fit its configuration: no weight is random, none that its function needs is left out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from obverse.errors import ConfigError

NUM_NAMED = 3  # weights that a sentence names; the rest is counted
UNUSED = "_obverse_unused"  # the attribute of a model that holds the sentence of `unused`
# Layers behind the last one that predict further tokens; transformers leaves them out on purpose.
EXTRA_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_layers", "mtp_num_hidden_layers")


class Report(logging.Filter):
    """Keeps what transformers reports of a loading, which is checked here, and prints everything else."""

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
        """Weights that could not be put together from those in the files, such as experts of a mixture."""
        rows = [line.split("|") for line in self.text.splitlines() if "CONVERSION" in line and "|" in line]
        return [row[0].strip() for row in rows]


@contextmanager
def reported() -> Iterator[Report]:
    """Inside, transformers' report of a loading goes to the object that this gives."""
    report, logger = Report(), logging.getLogger("transformers.modeling_utils")
    logger.addFilter(report)
    try:
        yield report
    finally:
        logger.removeFilter(report)


def check_weights(name: str, model: Any, info: Mapping[str, Any], new_head: bool = False) -> None:
    """Raise ConfigError where files and configuration of a model do not fit.

    `info` is transformers' `output_loading_info`. Missing weights would be random. Weights of another shape, of layers
    that the configuration has not, or of modules that have no place for them, made another function than this one.
    What is left over besides is noted for `unused`. With `new_head` a scalar head `score` may be missing.
    """
    where, head = f"model {name!r}", ("score.",) if new_head else ()  # which no name starts with
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(head))
    left = sorted(info["unexpected_keys"])
    if model.get_output_embeddings() is None:  # a language model's head, which a scalar one stands in place of
        left = [key for key in left if key.count(".") > 1]
    shapes = {key: (tuple(there), tuple(here)) for key, there, here in info["mismatched_keys"]}
    if info["error_msgs"]:
        raise ConfigError(f"{where} cannot be loaded: {' '.join(str(info['error_msgs'][0]).split())}")
    if shapes:
        key, (there, here) = min(shapes.items())
        others = f" (and {len(shapes) - 1} more)" if len(shapes) > 1 else ""
        raise ConfigError(
            f"{where}: {key} has the shape {list(there)} in its files and {list(here)} by its config.json{others}: "
            "give files and configuration of one model"
        )
    if missing:
        instead = f"; they hold {listed(left)}, for which it has no place: rename them" if left else ""
        raise ConfigError(
            f"{where}: its files lack {len(missing)} of its {len(model.state_dict())} weights, which would be random: "
            f"{listed(missing)}{instead or ': give files and configuration of one model'}"
        )
    surplus = _surplus_layers(model, left)
    if surplus:
        raise ConfigError(
            f"{where}: its files have layers that its config.json does not count, {listed(surplus)}: "
            "give files and configuration of one model"
        )
    homeless = [key for key in left if _is_of_module(model, key)]
    if homeless:
        raise ConfigError(
            f"{where}: its files have weights of modules that take none by its config.json, {listed(homeless)}: "
            "without them it computes another function; give files and configuration of one model"
        )
    _refuse_parted(where, model)
    if left:
        setattr(model, UNUSED, f"{where}: weights in its files that it does not use: {listed(left)}")


def check_vocabulary(name: str, model: Any, tokenizer: Any) -> None:
    """Raise ConfigError where a tokenizer writes tokens that a model has no embedding for; its padding never counts.

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


def unused(model: Any) -> str | None:
    """A sentence on weights that the files have and the model does not read; None where there are none."""
    sentence: str | None = getattr(model, UNUSED, None)
    return sentence


def listed(names: Collection[str]) -> str:
    """The first names, and how many there are where that is not all."""
    shown = ", ".join(list(names)[:NUM_NAMED])
    return shown if len(names) <= NUM_NAMED else f"{shown}, ... ({len(names)} in all)"


def _surplus_layers(model: Any, left: Collection[str]) -> list[str]:
    """The names among `left` which the model has too, but for a number: layers or experts that it should have."""
    prefix = f"{model.base_model_prefix}."
    known = {_counted(key.removeprefix(prefix), place) for key in model.state_dict() for place in _numbers(key, prefix)}
    config = model.config.get_text_config()
    num_layers = int(getattr(config, "num_hidden_layers", 0))
    num_extra = max(int(getattr(config, each, None) or 0) for each in EXTRA_LAYERS)
    allowed = {str(num_layers + n) for n in range(num_extra)}
    found = []
    for key in left:
        plain = key.removeprefix(prefix)
        places = [place for place in _numbers(key, prefix) if _counted(plain, place) in known]
        if places and plain.split(".")[places[0]] not in allowed:
            found.append(key)
    return found


def _numbers(key: str, prefix: str) -> list[int]:
    """The places in a weight's name that hold a number."""
    return [place for place, part in enumerate(key.removeprefix(prefix).split(".")) if part.isdigit()]


def _counted(name: str, place: int) -> str:
    """A weight's name with a star for the number at a place."""
    parts = name.split(".")
    return ".".join([*parts[:place], "*", *parts[place + 1 :]])


def _is_of_module(model: Any, key: str) -> bool:
    """Whether a weight's name continues that of a module that has weights itself, such as a bias of a linear layer."""
    for start in (model, model.base_model):
        module = start
        for part in key.split(".")[:-1]:
            child = module._modules.get(part)
            if child is None:
                break
            module = child
        if module is not start and any(each is not None for each in module._parameters.values()):
            return True
    return False


def _refuse_parted(where: str, model: Any) -> None:
    """Raise ConfigError where the configuration ties weights that differ in the files."""
    parted = model.get_expanded_tied_weights_keys(all_submodels=True).keys() - model.all_tied_weights_keys.keys()
    if parted:
        raise ConfigError(
            f"{where}: its config.json ties {min(parted)} to the embeddings (tie_word_embeddings), and its files have "
            "another one: programs differ in which they take; set it to false there, or drop the weight"
        )
