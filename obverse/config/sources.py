"""The options of one source (command line, file, Python call), aliases of their names, and one sentence per mistake.

An alias is accepted where its meaning is the same (`dataset_name`, dashes). Every other unknown name is refused, with
the nearest name, or with the option that replaces it where only TRL or transformers has it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic_core import ErrorDetails

from obverse.config.fields import Options

COMMAND_LINE = "command line"
ARGUMENTS = "arguments"  # of a Python call

ALIASES = {
    "model_name_or_path": "model",
    "ref_model": "anchor_model",
    "teacher_model_name_or_path": "teacher_model",
    "dataset_name": "dataset",
    "dataset_train_split": "dataset_split",
    "split": "dataset_split",
    "reward_funcs": "verifier",
    "reward_weights": "verifier_weights",
    "torch_dtype": "dtype",
}
LAMBDAS = ("lmbda", "lam")  # options that papers call lambda, which no parameter of a Python function can be

_BATCH = (
    "an update is prompts_per_step x num_generations completions, so prompts_per_step = per_device_train_batch_size "
    "x gradient_accumulation_steps x devices / num_generations; micro_batch_tokens splits it without changing it"
)
# Options of other libraries, and what to use instead.
REPLACED = {
    "overwrite_output_dir": "a run is never overwritten; give another output_dir or resume_from_checkpoint",
    "warmup_ratio": "use warmup_steps: a number of updates, or below 1 the fraction of the run's",
    "logging_dir": "everything is written into output_dir",
    "evaluation_strategy": "use eval_steps, 0 for never",
    "eval_strategy": "use eval_steps, 0 for never",
    "logging_strategy": "use logging_steps",
    "save_strategy": "use save_steps and save_minutes, both 0 for only at the end",
    "save_safetensors": "weights are always saved as safetensors",
    "per_device_train_batch_size": _BATCH,
    "gradient_accumulation_steps": _BATCH,
    "generation_batch_size": _BATCH,
    "steps_per_generation": _BATCH,
    "per_device_eval_batch_size": "evaluation is the command eval with its batch_size",
    "bf16": "use dtype bfloat16",
    "fp16": "use dtype bfloat16",
    "use_cpu": "use device cpu",
    "no_cuda": "use device cpu",
    "max_length": "use max_prompt_length and max_completion_length, in tokens",
    "max_seq_length": "use max_prompt_length and max_completion_length, in tokens",
    "max_new_tokens": "use max_completion_length, in tokens",
    "max_tokens": "use max_completion_length, in tokens",
    "loss_type": "choose the method that has it: see 'obverse methods'",
    "optim": "the optimizer is AdamW",
    "hub_token": "set HF_TOKEN in the environment, because options are stored",
    "hub_strategy": "push_to_hub uploads the model once, at the end of the run",
    "hub_always_push": "push_to_hub uploads the model once, at the end of the run",
    "hub_revision": "the model is pushed to the branch main",
    "method_options": "write the method's options flat, beside the run's",
    "lr": "use learning_rate",
    "batch_size": "use prompts_per_step, a number of problems",
    "epochs": "use num_train_epochs",
    "steps": "use max_steps",
    "lora_dropout": "leave it out: without dropout an importance ratio compares one function of the weights",
    "lora_task_type": "it follows from the method; leave it out",
    "lora_modules_to_save": "every trained weight is in an adapter; leave it out, or train without use_peft",
    "lora_target_parameters": "name matrices of experts in lora_target_modules",
    "use_dora": "adapters are LoRA's, with use_rslora if wanted; leave it out",
    "peft_config": "use use_peft, lora_r, lora_alpha and lora_target_modules",
    "load_in_8bit": "use load_in_4bit, or dtype bfloat16",
    "bnb_4bit_quant_type": "load_in_4bit is NF4; leave it out",
    "use_bnb_nested_quant": "load_in_4bit quantizes its constants too; leave it out",
    "bnb_4bit_quant_storage": "load_in_4bit stores bytes; leave it out",
    "bnb_4bit_compute_dtype": "load_in_4bit multiplies in bfloat16; leave it out",
}


@dataclass(frozen=True)
class Layer:
    """The options of one source, as they were written; `origin` is its name in messages and the banner."""

    origin: str
    values: Mapping[str, Any]

    def spell(self, name: str) -> str:
        """An option as it is written in this source: `--seed` or `seed`."""
        return f"--{name}" if self.origin == COMMAND_LINE else name

    def problem(self, text: str) -> str:
        """One line for the user: the text, after the name of a file."""
        return text if self.origin in (COMMAND_LINE, ARGUMENTS) else f"{self.origin}: {text}"

    def cleaned(self, schema: type[Options], hint: str) -> tuple[Layer, list[str]]:
        """The layer with the schema's names and None for `none`, and a sentence for every name that cannot be used."""
        values: dict[str, Any] = {}
        names: dict[str, str] = {}
        problems = []
        for written, value in self.values.items():
            name = written.replace("-", "_")
            name = option_name(schema, name)
            if not is_option(schema, name):
                problems.append(self.problem(self._unknown(name, schema, hint)))
            elif name in values:
                alias = written if written != name else names[name]
                problems.append(self.problem(f"{self.spell(name)}: given twice, once as {self.spell(alias)}"))
            elif (
                isinstance(value, bool) and {int, float} & set(kinds(schema, name)) and bool not in kinds(schema, name)
            ):
                problems.append(self.problem(f"{self.spell(name)}: expects a number, not {str(value).lower()}"))
            else:
                value = str(value) if isinstance(value, float) and set(kinds(schema, name)) == {bool} else value
                values[name], names[name] = none_or(value, list(kinds(schema, name))), written
        return Layer(self.origin, values), problems

    def _unknown(self, name: str, schema: type[Options], hint: str) -> str:
        if name in REPLACED and is_option(schema, "learning_rate"):
            return f"there is no option {self.spell(name)}: {REPLACED[name]}"
        options = [option for names in schema.groups().values() for option in names]
        near = difflib.get_close_matches(name.lower(), [*options, *ALIASES], n=1)
        if not near or ALIASES.get(near[0], near[0]) not in [*options, near[0]]:
            return f"unknown option {self.spell(name)}: {hint}"
        return f"unknown option {self.spell(name)}: did you mean {self.spell(near[0])}?"


def arguments(options: Mapping[str, Any]) -> Layer:
    """The keyword arguments of a Python call as options; a path is given as its text."""
    return Layer(ARGUMENTS, {name: str(value) if isinstance(value, Path) else value for name, value in options.items()})


def option_name(schema: type[Options], name: str) -> str:
    """The name in the schema of an option that is given as `name`, which may be an alias; `name` if there is none."""
    if is_option(schema, name):
        return name
    if name == "lambda":
        return next((option for option in LAMBDAS if is_option(schema, option)), name)
    return ALIASES.get(name, name)


def is_option(schema: type[Options], name: str) -> bool:
    """Whether a field is an option that users may give; a field without a group is set by the program."""
    return name in schema.model_fields and schema.model_fields[name].json_schema_extra is not None


def kinds(schema: type[Options], name: str) -> Iterator[Any]:
    """The plain types and choices that an option accepts: `int`, `None`, `"group"`."""
    return _kinds(schema.model_fields[name].annotation)


def _kinds(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif get_args(annotation):
        for part in get_args(annotation):
            yield from _kinds(part)
    else:
        yield annotation


def none_or(value: Any, accepted: list[Any]) -> Any:
    """None for the text `none` where an option accepts None and `none` is not one of its choices; else the value."""
    means_none = isinstance(value, str) and value.lower() in ("none", "null")
    return None if means_none and type(None) in accepted and value not in accepted else value


def sentences(errors: Iterable[ErrorDetails], layer_of: Mapping[str, Layer]) -> list[str]:
    """pydantic's errors as one line per option, with the option as it was written and its source."""
    lines: dict[str, str] = {}
    for error in errors:
        name = str(error["loc"][0]) if error["loc"] else ""
        layer = layer_of.get(name, Layer(COMMAND_LINE, {}))
        lines.setdefault(name, layer.problem(f"{layer.spell(name)}: {_reason(error)}" if name else _reason(error)))
    return list(lines.values())


_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "a text", "path": "a path"}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def _reason(error: ErrorDetails) -> str:
    """Why a value was refused, without the names of pydantic's types."""
    kind, context, value = error["type"], error.get("ctx", {}), shortened(error["input"])
    family = kind.split("_")[0]
    if kind == "missing":
        return "is required"
    if kind == "literal_error":
        choices = str(context["expected"])
        near = difflib.get_close_matches(
            str(error["input"]), choices.replace("'", "").replace(" or ", ", ").split(", "), n=1
        )
        return f"expects {choices}, not {value}" + (f": did you mean {near[0]}?" if near else "")
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"must be {words} {context[key]}, not {value}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "finite_number":
        return f"must be finite, not {value}"
    if kind in ("string_too_short", "too_short"):
        return "must not be empty"
    return f"expects {_TYPES[family]}, not {value}" if family in _TYPES else f"{error['msg']}, not {value}"


def shortened(value: Any) -> str:
    """A value as text for a message, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
