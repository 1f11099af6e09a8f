"""The options of the small commands: data, grade, export, report, serve-vllm, demo, methods. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from obverse.config.fields import (
    HUB_PRIVATE_TEXT,
    KWARGS_TEXT,
    PARSE_TEXT,
    TEACHER_TEMPLATE_TEXT,
    Folder,
    Listed,
    Options,
    Place,
    Places,
    Positive,
    Repository,
    Template,
    Text,
    Variables,
    Weights,
    option,
)


class DataConfig(Options):
    """The data and the tokenizer of `obverse data`."""

    dataset: Place = option("data", "embedded task with difficulties, a file of rows, a folder or a hub name")
    dataset_split: Text = option("data", "split of the dataset", "train")
    num_problems: Positive | None = option("data", "read at most this many problems; none: all", None)
    num: int = option("data", "problems to show", 2, ge=1)
    seed: int = option(
        "data", "seed of the embedded tasks and of the problems that are drawn from larger data", 42, ge=0
    )
    model: Place | None = option("model", "also show the tokens of this model's tokenizer; none: text only", None)
    chat_template: Template = option(
        "model", "auto, none, a text holding {prompt}, or the path of a .jinja file", "auto"
    )
    system_prompt: str | None = option("model", "system message for problems that have none", None)
    chat_template_kwargs: Variables = option("model", KWARGS_TEXT, {})
    parse_special_tokens: bool = option("model", PARSE_TEXT, False)
    teacher: Place | None = option(
        "method", "show also what the teacher of this method reads: a name, or file.py:function; none: no teacher", None
    )
    teacher_template: Template | None = option("method", TEACHER_TEMPLATE_TEXT, None)
    teacher_context: Text | None = option(
        "method",
        "text in place of a sibling's answer or of feedback, which exist in a run only; none: a placeholder",
        None,
    )


class GradeConfig(Options):
    """The verifier and the rows of `obverse grade`."""

    verifier: Places = option("data", "a verifier's name, file.py:function, or several, separated by commas")
    file: Folder = option("data", "rows of prediction and answer: a .jsonl, .json, .csv, .parquet or .arrow file")
    verifier_weights: Weights = option("data", "weight of each verifier; none: 1 each", ())
    verifier_seconds: float = option("data", "time limit of file.py:function for one row, in seconds", 10.0, gt=0)


class ExportConfig(Options):
    """The checkpoint that is exported, and the folder of the exported model."""

    model: Place = option("model", "a run folder (its newest checkpoint), a checkpoint or an adapter's folder")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "model", "number type of the saved weights; auto: that of the checkpoint, or of an adapter's base", "auto"
    )
    merge_adapter: bool = option(
        "model", "merge an adapter into its base; false: export the adapter, without its base", True
    )
    output: Folder = option("output", "the new model's folder, which must not exist or be empty")
    eval_results: Folder | None = option(
        "output", "results of obverse eval for the model card; none: those in the run folder", None
    )
    push_to_hub: Repository | None = option(
        "output", "also upload the folder to this repository of the hub, owner/name; none: do not", None
    )
    hub_private_repo: bool = option("output", HUB_PRIVATE_TEXT, True)


class InitConfig(Options):
    """The configuration file that `obverse init` writes."""

    method: Place = option("method", "the method that the run trains by: a name, or file.py:function")
    model: Place = option("model", "embedded, a transformers directory or a hub name", "embedded")
    dataset: Place = option(
        "data", "embedded task with difficulties, a file of rows, a folder or a hub name", "arithmetic:1-6"
    )
    output: Folder | None = option("output", "the file, which must not exist; none: METHOD.yaml", None)


class ReportConfig(Options):
    """The runs of a report, and its page and pictures."""

    run: Folder = option("data", "a run folder, or a folder with runs below it: a comparison, a demo")
    output: Folder | None = option("output", "the page; none: report.html in that folder", None)
    axis: Literal["steps", "tokens", "seconds", "flops"] = option(
        "output", "horizontal axis of pictures, and of the page when it opens", "steps"
    )
    megabytes: float = option("output", "completions to embed, in megabytes at most", 2.5, ge=0)
    figures: Folder | None = option("output", "folder for every figure as a picture; none: no pictures", None)
    format: Listed[Literal["svg", "png"]] = option("output", "formats of the pictures: svg, png or svg,png", ("svg",))


class RunsConfig(Options):
    """The folder that `obverse runs` searches for runs."""

    folder: Folder = option("data", "a run folder, or a folder with runs below it", Path("runs"))


class ServeConfig(Options):
    """How `obverse serve-vllm` starts a server."""

    model: Place = option("model", "embedded, a transformers directory or a hub name")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "model", "number type of the server's weights; auto: vLLM's choice, mostly bfloat16", "auto"
    )
    max_model_len: Annotated[int, Field(ge=2)] | None = option(
        "model", "longest prompt plus completion, in tokens; none: the model's", None
    )
    host: Text = option(
        "output", "address to listen at; every client that reaches it can change the weights", "127.0.0.1"
    )
    port: Annotated[int, Field(ge=1, le=65535)] = option("output", "port to listen at", 8000)
    program: Place = option(
        "output", "the vllm program, by name or path; it may be installed in another environment", "vllm"
    )
    vllm_args: str = option("output", "more options of vllm serve, as one text", "")


class CompletionConfig(Options):
    """The shell of a completion script."""

    shell: Literal["bash", "zsh", "fish"] = option("output", "the shell that the script is for")


class DemoConfig(Options):
    """The demonstration: methods on the embedded base and task, the same budget for each."""

    methods: Listed[Place] = option("method", "methods to run one after another, separated by commas", ("hpt",))
    seed: int = option("data", "seed of data order, sampling and everything else random", 42, ge=0)
    max_steps: Positive | None = option("data", "updates per method; none: what fits in about a minute", None)
    output_dir: Folder | None = option("data", "parent of the run folders; none: runs/demo-N, the next free N", None)
    report: bool = option("data", "write report.html into it at the end", True)


class MethodsConfig(Options):
    """The output of `obverse methods`."""

    pages: Folder | None = option("output", "write a page per method and an index into this folder", None)
