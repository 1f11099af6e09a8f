"""Evaluation of a model, loaded once, on benchmarks or a data set; samples and metrics are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from obverse.config.eval import EvalConfig
from obverse.data.renderer import Renderer
from obverse.evaluation.eval_sets import DEFAULT_DATASET, EvalSet, Target, find_eval_sets, find_target, prompt_format_of
from obverse.evaluation.regrade import refresh_grades
from obverse.evaluation.report import Report, Score
from obverse.evaluation.result_file import grader_record, write
from obverse.evaluation.sample_and_score import EvalItem, EvalSetup, collect, measure
from obverse.evaluation.sample_store import SampleStore, identity
from obverse.inference import sampling_params
from obverse.inference.build import embedded_sampler
from obverse.models.adapter_io import base_of, load_any, local_adapter
from obverse.models.context_limits import check_completions
from obverse.models.load import EMBEDDED
from obverse.models.policy import Policy, set_threads
from obverse.python_files import read_once
from obverse.runtime.callbacks import Silent, Watcher
from obverse.runtime.fingerprint import short
from obverse.runtime.output_dir import slug

__all__ = ["DEFAULT_DATASET", "EvalSetup", "Report", "Score", "evaluate", "evaluate_each", "measure"]

# The fields of a renderer's record that decide which prompts it writes.
TEMPLATE_FIELDS = ("jinja", "form", "system_prompt", "chat_template_kwargs", "parse_special_tokens")
MAX_UNGRADED = 0.01  # a larger fraction of samples without a grade gives a note


@dataclass(frozen=True)
class LoadedModel:
    """A model that is loaded once for all evaluation sets."""

    target: Target
    policy: Policy
    tokenizer: Any
    threads: int
    info: Mapping[str, Any]  # of result.json: name, identity of the weights, dtype

    def renderer(self, eval_set: EvalSet) -> Renderer:
        """Return the renderer of prompts for an evaluation set."""
        eos_ids = self.policy.model.generation_config.eos_token_id
        return Renderer(
            self.tokenizer,
            prompt_format_of(eval_set.config, self.target),
            eval_set.config.system_prompt,
            eos_ids,
            eval_set.config.chat_template_kwargs,
            eval_set.config.parse_special_tokens,
        )


def evaluate(config: EvalConfig, watcher: Watcher | None = None) -> Report:
    """Evaluate on one data set or benchmark; see `evaluate_each`. Raises ValueError if `config` names several."""
    (report,) = evaluate_each(config, watcher)
    return report


@read_once()
def evaluate_each(config: EvalConfig, watcher: Watcher | None = None) -> list[Report]:
    """Evaluate a model folder, an adapter, a hub name, `embedded` or a run (its newest checkpoint).

    Every data set has a folder (obverse.evaluation.sample_store) with its samples and `result.json`; stored samples are
    reused. Raises ConfigError if there is no such model or the folder has other samples, DataError for bad data.
    """
    watch = watcher or Silent()
    target = find_target(config)
    eval_sets = find_eval_sets(config, target, watch)
    model = load_model(config, target)
    return [evaluate_set(eval_set, model, watch) for eval_set in eval_sets]


def load_model(config: EvalConfig, target: Target) -> LoadedModel:
    """Load the model and its tokenizer."""
    location = local_adapter(target.location)
    policy, tokenizer = load_any(location, config.dtype, config.device)
    threads = set_threads(config.threads, policy)
    base = base_of(location)
    path = str(EMBEDDED) if location == "embedded" else location
    info = {
        "name": target.name,
        "identity": identity(path, getattr(policy.model.config, "_commit_hash", None)),
        "adapter_of": base,
        "base_identity": identity(base) if base else None,
        "dtype": f"{policy.model.dtype}{' mixed' if policy.mixed else ''}".removeprefix("torch."),
    }
    return LoadedModel(target, policy, tokenizer, threads, info)


def evaluate_set(eval_set: EvalSet, model: LoadedModel, watch: Watcher) -> Report:
    """Draw, grade and store the samples that are not stored yet, and write the result of all samples."""
    store = SampleStore(model.target.output / slug(eval_set.name))
    check_completions(
        eval_set.problems, model.renderer(eval_set), eval_set.config.max_completion_length, model.policy.model, watch
    )
    with store.writing():
        return sample_and_report(store, eval_set, model, watch)


def sample_and_report(store: SampleStore, eval_set: EvalSet, model: LoadedModel, watch: Watcher) -> Report:
    """Run `evaluate_set` while the sample store is locked."""
    renderer, config = model.renderer(eval_set), eval_set.config
    params = sampling_params(config, renderer.stop_ids)
    unused = model.policy.unused_weights
    notes = [*eval_set.notes(), *template_mismatch(model.target, renderer), *([unused] if unused else [])]
    watch.banner(
        [
            ("model", model.target.location + (f", adapter of {base}" if (base := model.info["adapter_of"]) else "")),
            ("template", renderer.describe()),
            ("data", f"{eval_set.source}: {len(eval_set.problems)} problems x {config.num_samples} samples"),
            (
                "sampling",
                f"temperature {params.temperature:g}, top_p {params.top_p:g}, at most {params.max_tokens} tokens",
            ),
            ("grader", describe_graders(grader_record(config.verifier, eval_set.problems))),
            ("folder", str(store.folder)),
        ]
    )
    for line in notes:
        watch.note(line)
    if config.show_tokens:
        ids = list(renderer.prompt(eval_set.problems[0]).token_ids)
        watch.note(f"problem {eval_set.problems[0].id} is sent as {len(ids)} tokens: {ids}")
        watch.note(f"which read: {quote(renderer.tokenizer.decode(ids, skip_special_tokens=False))}")
    weights = {name: model.info[name] for name in ("identity", "base_identity", "dtype")}
    sampler = embedded_sampler(model.policy, renderer, config.batch_size)
    setup = EvalSetup(sampler, renderer, params, config.num_samples, config.seed, config.num_seeds)
    items = [EvalItem.of(problem, setup) for problem in eval_set.problems]
    problems = {item.digest: item.problem for item in items}
    store.belongs_to(eval_set.source, problems)
    request = {"model": weights, "law": asdict(params), "template": renderer.record(), "verifier": config.verifier}
    for line in filter(None, [sampler.remark, *store.begin(request), refresh_grades(store, problems, watch)]):
        watch.note(line)
    store.write_problems(problems)
    scores = list(collect(items, setup, store, config.reached_k, config.batch_size, watch))
    ungraded = sum(score.num_ungraded for score in scores) / sum(score.num_samples for score in scores)
    if ungraded > MAX_UNGRADED:
        notes.append(f"no verdict on {ungraded:.1%} of the samples: they count as wrong, and their reasons are listed")
        watch.note(notes[-1])
    report = Report(f"{model.target.name} on {eval_set.name}", scores, config.reached_k, notes=tuple(notes))
    summary, metric = report.summary()["all"], next(iter(report.figures()))
    low, high = summary["interval"]
    watch.note(f"{report.name}: {metric} {summary[metric]:.1%} ({low:.1%} .. {high:.1%})")
    return write(report, eval_set, model.target, model.info, model.threads, store, renderer, params)


def quote(text: str) -> str:
    """Return the text in quotes as escaped ASCII on one line; double spaces are escaped because notes collapse them."""
    return ascii(text).replace("  ", " \\x20")


def describe_graders(record: Mapping[str, Any]) -> str:
    """Return a line with the verifiers and their versions; for a user's file, the start of its code's sha256."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)
    names = [f"{name} ({short(code)})" if ".py" in name else name for name, code in record["code"].items()]
    return f"{', '.join(names or record['verifiers'])} ({versions})"


def template_mismatch(target: Target, renderer: Renderer) -> list[str]:
    """Return a note if the model was trained with another chat template or system prompt than it is evaluated with."""
    trained, used = target.trained_template, renderer.record()
    if trained is None or all(trained.get(name) == used.get(name) for name in TEMPLATE_FIELDS):
        return []
    trained_text, used_text = (
        f"template {record['name']}, system prompt {record['system_prompt']!r}"
        + "".join(f", {name} {record[name]!r}" for name in TEMPLATE_FIELDS[3:] if record.get(name))
        for record in (trained, used)
    )
    return [f"this model was trained with {trained_text}; it is evaluated with {used_text}"]
