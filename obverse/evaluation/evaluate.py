"""Evaluation: a model, loaded once, faces benchmarks or a data set; what it wrote is kept, and the figures are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from obverse.config.eval import EvalConfig
from obverse.data.renderer import Renderer
from obverse.evaluation.eval_sets import HELD_OUT, Target, Trial, layout_of, target_of, trials_of
from obverse.evaluation.regrade import renew
from obverse.evaluation.report import Report, Score
from obverse.evaluation.result_file import grader, write
from obverse.evaluation.sample_and_score import Asked, collect, measure
from obverse.evaluation.sample_store import Store, identity
from obverse.inference import sampling_params
from obverse.inference.hf import HFSampler
from obverse.models.adapter_io import base_of, load_any
from obverse.models.checkpoint_weights import unused
from obverse.models.context_limits import check_asked
from obverse.models.load import EMBEDDED
from obverse.models.policy import Policy, set_threads
from obverse.python_files import read_once
from obverse.runtime.callbacks import Silent, Watcher
from obverse.runtime.fingerprint import short
from obverse.runtime.output_dir import slug

__all__ = ["HELD_OUT", "Report", "Score", "evaluate", "evaluate_each", "measure"]

# What decides how a model is spoken to, in a renderer's record.
SPOKEN = ("jinja", "form", "system_prompt", "chat_template_kwargs", "parse_special_tokens")
MAX_UNGRADED = 0.01  # more than this is said beside the figures


@dataclass(frozen=True)
class Speaker:
    """A model that is loaded once for all that it is asked."""

    target: Target
    policy: Policy
    tokenizer: Any
    threads: int
    about: Mapping[str, Any]  # names its weights

    def renderer(self, trial: Trial) -> Renderer:
        """How the model is spoken to in a trial."""
        eos_ids = self.policy.model.generation_config.eos_token_id
        return Renderer(
            self.tokenizer,
            layout_of(trial.config, self.target),
            trial.config.system_prompt,
            eos_ids,
            trial.config.chat_template_kwargs,
            trial.config.parse_special_tokens,
        )


def evaluate(config: EvalConfig, watcher: Watcher | None = None) -> Report:
    """`evaluate_each` of one data set or benchmark. Raises ValueError when `config` names several."""
    (report,) = evaluate_each(config, watcher)
    return report


@read_once()
def evaluate_each(config: EvalConfig, watcher: Watcher | None = None) -> list[Report]:
    """Evaluate a model folder, an adapter, a hub name, `embedded` or a run (its newest checkpoint), and report.

    Each data set has a folder (obverse.evaluation.sample_store) with its samples and `result.json`; stored samples are
    not drawn again.
    Raises ConfigError when there is no such model or the folder holds other samples, DataError for bad data.
    """
    watch = watcher or Silent()
    target = target_of(config)
    trials = trials_of(config, target, watch)
    speaker = load_speaker(config, target)
    return [run_trial(each, speaker, watch) for each in trials]


def load_speaker(config: EvalConfig, target: Target) -> Speaker:
    """The model and its tokenizer, and what names them."""
    policy, tokenizer = load_any(target.place, config.dtype, config.device)
    threads = set_threads(config.threads, policy)
    base = base_of(target.place)
    where = str(EMBEDDED) if target.place == "embedded" else target.place
    about = {
        "name": target.name,
        "identity": identity(where, getattr(policy.model.config, "_commit_hash", None)),
        "adapter_of": base,
        "base_identity": identity(base) if base else None,
        "dtype": f"{policy.model.dtype}{' mixed' if policy.mixed else ''}".removeprefix("torch."),
    }
    return Speaker(target, policy, tokenizer, threads, about)


def run_trial(trial: Trial, speaker: Speaker, watch: Watcher) -> Report:
    """Sample what is not stored yet, grade it, write it; then the figures of all of it."""
    store = Store(speaker.target.out / slug(trial.name))
    check_asked(
        trial.problems, speaker.renderer(trial), trial.config.max_completion_length, speaker.policy.model, watch
    )
    with store.writing():
        return fill(store, trial, speaker, watch)


def fill(store: Store, trial: Trial, speaker: Speaker, watch: Watcher) -> Report:
    """The same for the one program that writes there."""
    renderer, config = speaker.renderer(trial), trial.config
    params = sampling_params(config, renderer.stop_ids)
    left = unused(speaker.policy.model)
    told = [*trial.about(), *mismatch(speaker.target, renderer), *([left] if left else [])]
    watch.banner(
        [
            ("model", speaker.target.place + (f", adapter of {base}" if (base := speaker.about["adapter_of"]) else "")),
            ("template", renderer.describe()),
            ("data", f"{trial.source}: {len(trial.problems)} problems x {config.num_samples} samples"),
            (
                "sampling",
                f"temperature {params.temperature:g}, top_p {params.top_p:g}, at most {params.max_tokens} tokens",
            ),
            ("grader", graders(grader(config.verifier, trial.problems))),
            ("folder", str(store.folder)),
        ]
    )
    for line in told:
        watch.note(line)
    if config.show_tokens:
        ids = list(renderer.prompt(trial.problems[0]).token_ids)
        watch.note(f"problem {trial.problems[0].id} is sent as {len(ids)} tokens: {ids}")
        watch.note(f"which read: {literal(renderer.tokenizer.decode(ids, skip_special_tokens=False))}")
    weights = {name: speaker.about[name] for name in ("identity", "base_identity", "dtype")}
    rounds = range(config.seed, config.seed + config.num_seeds)
    asked = [Asked.of(problem, renderer, config.num_samples, rounds) for problem in trial.problems]
    problems = {each.digest: each.problem for each in asked}
    store.belongs_to(trial.source, problems)
    wanted = {"model": weights, "law": asdict(params), "template": renderer.record(), "verifier": config.verifier}
    for line in filter(None, [*store.begin(wanted), renew(store, problems, watch)]):
        watch.note(line)
    sampler = HFSampler(speaker.policy.model, config.batch_size, renderer.decode, speaker.policy.mixed)
    store.write_problems(problems)
    scores = list(collect(asked, config, sampler, renderer, params, store, watch))
    share = sum(score.num_ungraded for score in scores) / sum(score.num_samples for score in scores)
    if share > MAX_UNGRADED:
        told.append(f"no verdict on {share:.1%} of the samples: they count as wrong, and their reasons are listed")
        watch.note(told[-1])
    report = Report(f"{speaker.target.name} on {trial.name}", scores, config.reached_k, notes=tuple(told))
    row, name = report.summary()["all"], next(iter(report.figures()))
    watch.note(f"{report.name}: {name} {row[name]:.1%} ({row['interval'][0]:.1%} .. {row['interval'][1]:.1%})")
    return write(report, trial, speaker.target, speaker.about, speaker.threads, store, renderer, params)


def literal(text: str) -> str:
    """The text in quotes with every character told, on one line and without double spaces, which it would lose."""
    return ascii(text).replace("  ", " \\x20")


def graders(found: Mapping[str, Any]) -> str:
    """Which verifiers judge and their versions, in a line; of the user's own the sha256 of the code, cut short."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    names = [f"{name} ({short(code)})" if ".py" in name else name for name, code in found["code"].items()]
    return f"{', '.join(names or found['verifiers'])} ({versions})"


def mismatch(target: Target, renderer: Renderer) -> list[str]:
    """One line if the model was trained with another template or system prompt than it is spoken to in now."""
    trained, now = target.trained, renderer.record()
    if trained is None or all(trained.get(name) == now.get(name) for name in SPOKEN):
        return []
    then, here = (
        f"template {each['name']}, system prompt {each['system_prompt']!r}"
        + "".join(f", {name} {each[name]!r}" for name in SPOKEN[3:] if each.get(name))
        for each in (trained, now)
    )
    return [f"this model was trained with {then}; it is evaluated with {here}"]
