"""Checks of options and data against the requirements of a method, before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from obverse.data import load_dataset
from obverse.errors import ConfigError
from obverse.estimator.columns import WRITTEN_BY_CRITIC
from obverse.estimator.method import Method
from obverse.estimator.requests import ANY, wants
from obverse.estimator.schedule import TrainingSchedule
from obverse.rewards import get_verifier, with_weights
from obverse.runtime.trackers import trackers
from obverse.types import Problem

if TYPE_CHECKING:
    from obverse.config.train import TrainConfig


def check(schedule: TrainingSchedule, config: TrainConfig) -> None:
    """Raise ConfigError for options that contradict each other, or need what is not installed."""
    trackers.check(config.report_to or ())
    if len({method.trains_policy for method in schedule.methods}) > 1:
        raise ConfigError(f"method {config.method}: a policy and a reward model cannot be trained in one schedule")
    scored = any(method.grades and wants(method, "rollouts") for method in schedule.methods)
    if config.reward_model is not None and not scored:
        raise ConfigError(f"--reward_model: {config.method} samples nothing to score")
    if config.format_reward and any(method.needs("rewards") for method in schedule.methods):
        raise ConfigError(
            f"--format_reward changes the summed reward, and {config.method} reads each reward by itself: "
            "grade the format by a --verifier of its own"
        )
    if config.use_peft and not all(method.trains_policy for method in schedule.methods):
        raise ConfigError(f"--use_peft: {config.method} trains a whole model with a head of its own: leave it out")
    fits = all(method.trains_policy and method.inputs is None for method in schedule.methods)
    if config.router_aux_loss_coef and not fits:
        raise ConfigError(f"--router_aux_loss_coef: {config.method} trains no policy, or changes its input embeddings")
    for method in schedule.methods:
        check_method(config.method, method)
        if not method.trains_policy and config.eval_dataset is not None:
            raise ConfigError(
                f"--eval_dataset: {config.method} trains a reward model, which generates no answers to grade"
            )


def check_method(name: str, method: Method) -> None:
    """Raise ConfigError for a method that cannot work with any data: a group of one, advantages without a critic."""
    if not method.terms:
        raise ConfigError(f"method {name} trains nothing: give its Method at least one Term")
    requests = list(method.ask(ANY, 0.5))
    num_rollouts = sum(request.rollouts for request in requests)
    num_samples = num_rollouts + sum(request.demonstrations for request in requests)
    if (method.needs("group") and num_samples < 2) or (method.needs("own_group") and num_rollouts < 2):
        raise ConfigError(
            f"method {name} compares a problem's samples with each other and requests one of them: "
            "a group of one gives no gradient; raise --num_generations to 2 or more"
        )
    critic_column = next((column for column in sorted(WRITTEN_BY_CRITIC) if method.needs(column)), "")
    if (critic_column or "value" in method.streams) and method.critic is None:
        raise ConfigError(
            f"method {name} reads the column `{critic_column or 'advantage'}`, which only a critic writes, without "
            "a critic: give its Method one, critic=GAE()"
        )
    if method.critic is not None and "value" not in method.streams:
        raise ConfigError(f'method {name} has a critic that is not trained: give it a term with on="value"')


def load_problems(config: TrainConfig, schedule: TrainingSchedule) -> list[Problem]:
    """The data set. Raises ConfigError if it lacks columns or graders that the methods require."""
    verifier = with_weights(config.verifier, config.verifier_weights)
    if verifier is not None:
        get_verifier(verifier, config.verifier_seconds)  # raises errors before the data is loaded
    problems = load_dataset(
        config.dataset,
        split=config.dataset_split,
        num_problems=config.num_problems,
        seed=config.seed,
        verifier=verifier,
    )
    if not problems:
        raise ConfigError(f"data set {config.dataset!r} has no problems")
    problems = transformed(config, schedule, problems)
    for method in schedule.methods:
        check_data(config, method, problems)
    return problems


def transformed(config: TrainConfig, schedule: TrainingSchedule, problems: list[Problem]) -> list[Problem]:
    """The problems as the methods want them; ConfigError if none is left, or if methods want different ones."""
    transforms = [method.problems for method in schedule.methods]
    transform = transforms[0]
    if any(other != transform for other in transforms):
        raise ConfigError(f"method {config.method!r} has stages with different problems: give all the same transform")
    if transform is None:
        return problems
    changed = transform(problems)
    if not changed:
        raise ConfigError(
            f"method {config.method!r}: {transform} leaves none of the {len(problems)} rows of {config.dataset!r}: it "
            "needs demonstrations of at least two steps, a list of texts or paragraphs"
        )
    return changed


def check_data(config: TrainConfig, method: Method, problems: Sequence[Problem]) -> None:
    """Raise ConfigError if the data lack the samples or the reference answers that the method requires."""
    num_shown = sum(bool(problem.demonstration) for problem in problems)
    num_paired = sum(problem.chosen is not None and problem.rejected is not None for problem in problems)
    num_gradable = sum(problem.verifier is not None for problem in problems)
    num_labeled = sum(problem.chosen is not None or problem.rejected is not None for problem in problems)
    available = {"demonstrations": num_shown, "pairs": num_paired, "labeled": num_labeled}
    wanted = [kind for kind in available if wants(method, kind)]
    if wanted and not any(available[kind] for kind in wanted):
        columns = {"demonstrations": "the column", "pairs": "the columns chosen and rejected"}
        columns |= {"labeled": "the columns completion and label, or chosen and rejected"}
        raise ConfigError(
            f"method {config.method!r} needs {' or '.join(wanted)} and {config.dataset!r} has none: "
            f"add {' or '.join(columns[kind] for kind in wanted)}"
        )
    if "labeled" in wanted and num_labeled < len(problems):
        raise ConfigError(
            f"method {config.method!r} needs a label of every response: {len(problems) - num_labeled} of the "
            f"{len(problems)} rows of {config.dataset!r} have none, give label true or false beside completion"
        )
    graded = method.grades and wants(method, "rollouts") and config.reward_model is None
    if graded and num_gradable < len(problems):
        raise ConfigError(
            f"method {config.method!r} needs answers that can be checked: {len(problems) - num_gradable} of "
            f"{len(problems)} problems of {config.dataset!r} have none; add `answer` or give --verifier"
        )
