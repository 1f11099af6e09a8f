"""From a configuration to a run that can step: everything that can be refused is refused here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from obverse import checkpoint, methods, tasks
from obverse.config import TrainConfig
from obverse.config_file import write
from obverse.errors import CheckpointError, ConfigError
from obverse.interrupt import Attentive
from obverse.learn import Learner
from obverse.method import Method
from obverse.model import as_policy, load, locate, set_threads
from obverse.optim import Optimizer
from obverse.records import Problem
from obverse.resolve import with_folder
from obverse.rollout import Collector
from obverse.runlog import RunFolder, environment
from obverse.sampling import Law
from obverse.sampling.hf import HFSampler
from obverse.text import Renderer


@dataclass
class State:
    """Where a run stands; all that a checkpoint holds beside weights and moments."""

    step: int = 0
    cursor: int = 0  # problems taken so far
    num_tokens: int = 0  # generated plus trained


@dataclass
class Run:
    """The parts of one run, ready to step."""

    config: TrainConfig
    method: Method
    problems: Sequence[Problem]
    eval_problems: Sequence[Problem]
    collector: Collector
    learner: Learner
    folder: RunFolder
    total_steps: int
    watcher: Attentive
    state: State = field(default_factory=State)

    @property
    def finished(self) -> bool:
        """All steps are done, or the budget of tokens is spent."""
        budget = self.config.budget
        return self.state.step >= self.total_steps or (budget is not None and self.state.num_tokens >= budget)

    @property
    def expected_steps(self) -> int:
        """How many steps the run will take by what it has spent so far; a budget of tokens may end it early."""
        return min(self.total_steps, math.ceil(self.state.step / self.progress)) if self.progress else self.total_steps

    @property
    def progress(self) -> float:
        """The share of the run that is done, 0 to 1: by steps or by tokens, whichever is nearer to its end."""
        spent = self.state.num_tokens / self.config.budget if self.config.budget else 0.0
        return min(max(self.state.step / self.total_steps, spent), 1.0)


def prepare(config: TrainConfig, watcher: Attentive) -> Run:
    """Load and check everything a run needs, and restore it if it is to be resumed.

    Raises ConfigError, DataError, CheckpointError or StorageError, each before the first step.
    """
    method = methods.build(config.method, config.method_options)
    problems = load_problems(config, method)  # before there is a folder: mistakes leave nothing behind
    locate(config.model)
    config = with_folder(config)
    folder = RunFolder(config.output_dir or ".")
    folder.create()
    start = find_start(config, folder)
    watcher.watcher.phase("load", 0, 1)  # a signal waits for the loop: there is nothing to save yet
    policy, tokenizer = load(str(start) if start else config.model, config.dtype, config.device)
    threads = set_threads(config.threads, policy)
    renderer = Renderer(
        tokenizer, config.chat_template, config.system_prompt, policy.model.generation_config.eos_token_id
    )
    problems = short_enough(problems, renderer, config.max_prompt_length, watcher)
    anchor = None
    if method.needs("anchor"):
        anchor = load(config.model, config.dtype, config.device)[0] if start else as_policy(deepcopy(policy.model))
    law = Law(
        renderer.stop_ids, config.max_completion_length, config.temperature, config.top_p, config.top_k, config.min_p
    )
    collector = Collector(HFSampler(policy.model, config.rollout_batch_size), renderer, law, config.seed, watcher)
    total_steps = num_steps(config, len(problems))
    optimizer = Optimizer(policy.model, config, total_steps * config.updates_per_step)
    learner = Learner(policy, anchor, method, optimizer, config.micro_batch_tokens)
    run = Run(config, method, problems, load_held_out(config), collector, learner, folder, total_steps, watcher)
    if start:
        restore(run, start)
    else:
        folder.write_text("config.yaml", write(config))
        folder.write_json("environment.json", environment(threads))
    return run


def restore(run: Run, path: Path) -> None:
    """Continue from a checkpoint: moments, schedule, place in the data, and the metrics rows up to there."""
    saved = checkpoint.load(path)
    run.state = State(**{name: saved.state[name] for name in ("step", "cursor", "num_tokens")})
    run.learner.optimizer.restore(saved.tensors, saved.state["optimizer"])
    run.folder.rewind_metrics(saved.state["metrics_offset"])


def find_start(config: TrainConfig, folder: RunFolder) -> Path | None:
    """The checkpoint to resume from, None for a fresh run; CheckpointError when the one asked for is not there."""
    wanted = config.resume_from_checkpoint
    if wanted == "never":
        return None
    if wanted != "auto":
        return Path(wanted)
    found = checkpoint.newest(folder.path)
    if found is None and folder.metrics_path.exists():
        raise CheckpointError(f"{folder.path} holds a run but no whole checkpoint: start anew in another --output_dir")
    return found


def load_problems(config: TrainConfig, method: Method) -> list[Problem]:
    """The data set, checked for what the method asks of it; ConfigError when it cannot give that."""
    problems = tasks.load(
        config.dataset,
        split=config.dataset_split,
        num_problems=config.num_problems,
        seed=config.seed,
        verifier=config.verifier,
    )
    if not problems:
        raise ConfigError(f"data set {config.dataset!r} has no problems")
    wishes = [wish for problem in problems for wish in method.ask(problem, 0.0)]
    num_shown = sum(bool(problem.demonstration) for problem in problems)
    num_gradable = sum(problem.verifier is not None for problem in problems)
    if any(wish.demonstrations or wish.hint for wish in wishes) and num_shown == 0:
        raise ConfigError(
            f"method {config.method!r} needs demonstrations and {config.dataset!r} has none: add the column"
        )
    if any(wish.rollouts for wish in wishes) and num_gradable < len(problems):
        raise ConfigError(
            f"method {config.method!r} needs answers that can be checked: {len(problems) - num_gradable} of "
            f"{len(problems)} problems of {config.dataset!r} have none; add `answer` or give --verifier"
        )
    return problems


def load_held_out(config: TrainConfig) -> list[Problem]:
    """The problems to evaluate on while training; none without an eval_dataset."""
    if config.eval_dataset is None:
        return []
    return tasks.load(
        config.eval_dataset,
        split="heldout",
        num_problems=config.num_eval_problems,
        seed=config.seed,
        verifier=config.verifier,
    )


def short_enough(
    problems: list[Problem], renderer: Renderer, max_prompt_length: int | None, watcher: Attentive
) -> list[Problem]:
    """The problems whose prompts fit; how many do not is said, and none at all is a ConfigError."""
    if max_prompt_length is None:
        return problems
    fitting = [problem for problem in problems if len(renderer.prompt_ids(problem)) <= max_prompt_length]
    if not fitting:
        raise ConfigError(f"no prompt has at most {max_prompt_length} tokens: raise --max_prompt_length")
    if len(fitting) < len(problems):
        watcher.note(f"{len(problems) - len(fitting)} of {len(problems)} problems left out by --max_prompt_length")
    return fitting


def num_steps(config: TrainConfig, num_problems: int) -> int:
    """max_steps, or as many as num_train_epochs take."""
    if config.max_steps > 0:
        return config.max_steps
    return max(1, math.ceil(config.num_train_epochs * num_problems / config.prompts_per_step))
