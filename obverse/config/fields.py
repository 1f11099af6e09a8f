"""The fields of options: types, groups, units, and the strict, frozen base class of every schema. No torch import."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, field_validator

LARGEST = 2**63 - 1  # of a whole number, as counters and tensors hold them
AMOUNTS = {"K": 10**3, "M": 10**6, "G": 10**9}
LONGEST_NAME, LONGEST_PATH = 220, 3_500  # bytes; files that obverse writes beside and below need the rest
GROUPS = ("method", "model", "data", "batch", "optimization", "sampling", "distributed", "logging and saving", "output")


# What a resumed run does with an option whose value differs from the checkpoint's:
# fixed: the checkpoint is refused, unless allow_config_change names the option
# free: the new value holds, and environment.json records the change
# evaluation: as free, and earlier evaluations are set aside, because they are not comparable with later ones
# unrecorded: the option says how this start proceeds, and is not recorded as a change
Resume = Literal["fixed", "free", "evaluation", "unrecorded"]


def option(group: str, text: str, default: Any = ..., *, resume: Resume = "fixed", **bounds: Any) -> Any:
    """Declare an option: its group in the help, its meaning and unit, default, rule for resumed runs, and bounds."""
    return Field(default, description=text, json_schema_extra={"group": group, "resume": resume}, **bounds)


def steps_or_epochs(value: int) -> int:
    if value == 0:
        raise ValueError("must be -1 (by epochs) or at least 1")
    return value


def resume_word(value: Any) -> Any:
    if isinstance(value, bool) or str(value).lower() in ("true", "false"):
        return "auto" if str(value).lower() == "true" else "never"
    return "never" if value is None else value


def _parts(value: Any) -> Any:
    """`1,8` is (1, 8), and so is a single 1 without a comma."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _texts(value: Any) -> Any:
    """`###,Q:` is two texts, and so is a list; spaces and line ends belong to them."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(value),)
    return tuple(part for part in value.split(",") if part) if isinstance(value, str) else value


def distinct(value: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(value))


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ValueError(f"expects auto, cpu, mps, cuda or cuda:N, not {value!r:.60}")
    return value


def _amount(value: Any) -> Any:
    """`20M` is 20,000,000; a plain number stays as it is."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kKmMgG])", value.strip()) if isinstance(value, str) else None
    return round(float(match[1]) * AMOUNTS[match[2].upper()]) if match else value


def _every(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError(f"must be a whole number of steps, or a share of the run below 1, not {value:g}")
    return int(value) if value == int(value) else value


def _variables(value: Any) -> Any:
    """`enable_thinking=false,language=en` or a JSON object; a value that is not JSON is a text."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return _json(value)
    result: dict[str, Any] = {}
    for part in filter(None, map(str.strip, value.split(","))):
        name, equals, text = map(str.strip, part.partition("="))
        if not equals or not name:
            raise ValueError(f"expects name=value, separated by commas, or a JSON object, not {part!r:.60}")
        if name in result:
            raise ValueError(f"{name!r:.60} is there twice")
        try:
            result[name] = _json(text)
        except ValueError:
            result[name] = {"True": True, "False": False, "None": None}.get(text, text)
    return result


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from None


def _folder(value: Any) -> Any:
    if value == "":
        raise ValueError("must not be empty")
    return Path(fitting(at_home(str(value)))) if isinstance(value, str | Path) else value


def fitting(value: str) -> str:
    """The path unchanged; ValueError for one that no file system or JSON file can hold."""
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8, as names in stored results are: rename it") from None
    if b"\0" in encoded:
        raise ValueError("must not hold a NUL character")
    if len(encoded) > LONGEST_PATH or max(map(len, encoded.split(b"/"))) > LONGEST_NAME:
        raise ValueError(f"is too long: a name may have {LONGEST_NAME} bytes, a path {LONGEST_PATH}")
    return value


def at_home(value: str) -> str:
    """Replace a leading ~ or ~NAME by that home folder; any other text is unchanged, variables like $HOME too."""
    if not value.startswith("~"):
        return value
    path = os.path.expanduser(value)
    if path.startswith("~"):
        raise ValueError(f"there is no home folder {value.partition('/')[0]}: write the path out")
    return path


def each_at_home(value: str) -> str:
    """Apply `at_home` to every path of a list with commas, also to those written NAME=PATH."""
    parts = [part.partition("=") for part in value.split(",")]
    return ",".join(f"{name}={at_home(path)}" if equals else at_home(name) for name, equals, path in parts)


def _repository(value: str) -> str:
    """The name unchanged; ValueError for one that no repository of the hub can have."""
    name = value.rpartition("/")[2]
    is_name = re.fullmatch(r"(?:[\w-][\w.-]*/)?[\w](?:[\w.-]*[\w])?", value, re.ASCII) and len(value) <= 96
    if not is_name or "--" in value or ".." in value or name.endswith(".git"):
        raise ValueError(f"expects a repository of the hub, owner/name, not {value!r:.60}")
    return value


def _joined(value: Any) -> Any:
    """A list of texts, as YAML has it, as one text with commas; any other value unchanged."""
    is_list = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
    return ",".join(value) if is_list else value


def _template(value: str) -> str:
    return value if "{prompt}" in value else at_home(value)


Text = Annotated[str, Field(min_length=1)]
Place = Annotated[Text, AfterValidator(at_home)]  # a path, or a name on the hub
Places = Annotated[Text, BeforeValidator(_joined), AfterValidator(each_at_home)]  # several of them
Template = Annotated[Text, AfterValidator(_template)]
Repository = Annotated[str, AfterValidator(_repository)]  # of the hub
Folder = Annotated[Path, BeforeValidator(_folder)]
Device = Annotated[str, AfterValidator(_device)]
Dtype = Literal["auto", "float32", "bfloat16", "mixed", "float64"]
Positive = Annotated[int, Field(ge=1)]
Amount = Annotated[int, BeforeValidator(_amount), Field(ge=1)]
Every = Annotated[int | float, Field(ge=0), AfterValidator(_every)]
Normalizer = Annotated[float, Field(gt=0, le=1)]
Item = TypeVar("Item")
Listed = Annotated[tuple[Item, ...], BeforeValidator(_parts), AfterValidator(distinct), Field(min_length=1)]
Weights = Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(_parts)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_texts), AfterValidator(distinct)]
Variables = Annotated[dict[Text, Any], BeforeValidator(_variables)]
Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]


KWARGS_TEXT = (
    "variables of the chat template: enable_thinking=false, or a JSON object; a row's own chat_template_kwargs "
    "override them"
)
HUB_PRIVATE_TEXT = "create the repository as a private one, and push to no public one; false: allow both"
TEACHER_TEMPLATE_TEXT = (
    "what a teacher with a context reads as the user's message: a text with {prompt} and {context}, or its file; none: "
    "a text for each kind of context (docs/teachers.md)"
)
PARSE_TEXT = "read control tokens that rows spell out (such as <|im_end|>) as tokens; by default they stay text"


class Options(BaseModel):
    """The base of every schema of options: unknown names and NaN are refused, and values cannot be changed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
        defer_build=True,  # only the command that is run needs its schema
    )
    # The options that --help and `obverse init` list first; required options are added. Empty: all of them.
    essential: ClassVar[tuple[str, ...]] = ()
    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any) -> None:
        """Keep where the values came from: `context["origins"]`, by option, if the schema was validated with it."""
        self._origins = (context or {}).get("origins", {})

    @field_validator("*", mode="after")
    @classmethod
    def _in_range(cls, value: Any) -> Any:
        """Refuse whole numbers that do not fit into 64 bits."""
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, int) and abs(item) > LARGEST:
                raise ValueError(f"must be at most {LARGEST}, in either direction")
        return value

    def origin(self, name: str) -> str:
        """Where an option's value came from: `command line`, a file, `embedded preset`, `paper` or `default`."""
        return self._origins.get(name, "default")

    @classmethod
    def with_resume(cls, *rules: Resume) -> frozenset[str]:
        """The options that have one of these rules for resumed runs."""
        extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        return frozenset(name for name, extra in extras.items() if isinstance(extra, dict) and extra["resume"] in rules)

    @classmethod
    def essential_groups(cls) -> dict[str, list[str]]:
        """The groups with the required and essential options alone; all options for a schema that declares none."""
        if not cls.essential:
            return cls.groups()
        required = [name for name, field in cls.model_fields.items() if field.is_required()]
        ordered = dict.fromkeys((*required, *cls.essential))
        groups = {group: [name for name in ordered if name in names] for group, names in cls.groups().items()}
        return {group: names for group, names in groups.items() if names}

    @classmethod
    def groups(cls) -> dict[str, list[str]]:
        """The names of the options by the group they are listed under."""
        groups: dict[str, list[str]] = {group: [] for group in GROUPS}
        for name, field in cls.model_fields.items():
            if isinstance(field.json_schema_extra, dict):
                groups[str(field.json_schema_extra["group"])].append(name)
        return {group: names for group, names in groups.items() if names}


class ModelOptions(Options):
    """The model, its device and number type, and how its prompts are rendered."""

    model: Place = option("model", "embedded, a transformers directory or a hub name", "embedded")
    dtype: Dtype = option(
        "model",
        "of weights and products; mixed: float32 weights, bfloat16 products; auto: float32 on a CPU, else mixed to "
        "train and bfloat16 to evaluate; float64: for proofs",
        "auto",
    )
    device: Device = option("model", "auto, cpu, cuda, cuda:N or mps", "auto", resume="free")
    threads: int = option(
        "model",
        "CPU threads; 0: 1 for a small model, else what its matrices are faster with",
        0,
        ge=0,
        le=4096,
        resume="free",
    )
    chat_template: Template = option(
        "model", "auto, none, a text holding {prompt}, or the path of a .jinja file", "auto"
    )
    system_prompt: str | None = option("model", "system message for problems that have none", None)
    chat_template_kwargs: Variables = option("model", KWARGS_TEXT, {})
    parse_special_tokens: bool = option("model", PARSE_TEXT, False)


class SamplingOptions(Options):
    """The distribution that completions are drawn from."""

    top_p: Normalizer = option("sampling", "keep the likeliest tokens up to this probability; 1 is off", 1.0)
    top_k: int = option("sampling", "keep this many of the likeliest tokens; 0 is off", 0, ge=0)
    min_p: float = option(
        "sampling", "drop tokens below this share of the likeliest one's probability; 0 is off", 0.0, ge=0, le=1
    )
    max_completion_length: int = option("sampling", "longest completion, in tokens", 512, ge=1)
    stop_strings: Texts = option(
        "sampling", "end a completion once its text holds one of these, separated by commas; none by default", ()
    )
    max_sampling_seconds: Annotated[float, Field(gt=0)] | None = option(
        "sampling",
        "cut off completions that a call has not finished by then, which no seed reproduces; none: no limit",
        None,
        resume="free",
    )
