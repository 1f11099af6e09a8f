"""What a method asks of its options and of the data; what cannot be given is one sentence, before any model loads."""

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
from obverse.types import Problem

if TYPE_CHECKING:
    from obverse.config.train import TrainConfig


def check(schedule: TrainingSchedule, config: TrainConfig) -> None:
    """Raise ConfigError for options that contradict each other."""
    if len({method.trains_policy for method in schedule.methods}) > 1:
        raise ConfigError(f"method {config.method}: a policy and a reward model cannot be trained in one course")
    scored = any(method.grades and wants(method, "rollouts") for method in schedule.methods)
    if config.reward_model is not None and not scored:
        raise ConfigError(f"--reward_model: {config.method} samples nothing that it could score")
    if config.use_peft and not all(method.trains_policy for method in schedule.methods):
        raise ConfigError(f"--use_peft: {config.method} trains a whole model with a head of its own: leave it out")
    fits = all(method.trains_policy and method.inputs is None for method in schedule.methods)
    if config.router_aux_loss_coef and not fits:
        raise ConfigError(f"--router_aux_loss_coef: {config.method} trains no policy that reads its texts as they are")
    for method in schedule.methods:
        check_method(config.method, method)
        if not method.trains_policy and config.eval_dataset is not None:
            raise ConfigError(
                f"--eval_dataset: {config.method} trains a reward model, which writes no answers to grade"
            )


def check_method(name: str, method: Method) -> None:
    """Raise ConfigError for a method that cannot work, whatever the data: a group of one, advantages from nobody."""
    if not method.terms:
        raise ConfigError(f"method {name} trains nothing: give its Method at least one Term")
    asked = list(method.ask(ANY, 0.5))
    own = sum(request.rollouts for request in asked)
    everyone = own + sum(request.demonstrations for request in asked)
    if (method.needs("group") and everyone < 2) or (method.needs("own_group") and own < 2):
        raise ConfigError(
            f"method {name} compares a problem's samples with each other and asks for one of them: "
            "a group of one teaches nothing; raise --num_generations to 2 or more"
        )
    written = next((column for column in sorted(WRITTEN_BY_CRITIC) if method.needs(column)), "")
    if (written or "value" in method.streams) and method.critic is None:
        raise ConfigError(
            f"method {name} reads the column `{written or 'advantage'}`, which only a critic writes, and has none: "
            "give its Method a critic, critic=GAE()"
        )
    if method.critic is not None and "value" not in method.streams:
        raise ConfigError(f'method {name} has a critic that never learns: give it a term with on="value"')


def load_problems(config: TrainConfig, schedule: TrainingSchedule) -> list[Problem]:
    """The data set, checked for what the methods ask of it; ConfigError when it cannot give that."""
    judged_by = with_weights(config.verifier, config.verifier_weights)
    if judged_by is not None:
        get_verifier(judged_by, config.verifier_seconds)  # a name or a file that is wrong is told now
    problems = load_dataset(
        config.dataset,
        split=config.dataset_split,
        num_problems=config.num_problems,
        seed=config.seed,
        verifier=judged_by,
    )
    if not problems:
        raise ConfigError(f"data set {config.dataset!r} has no problems")
    for method in schedule.methods:
        check_data(config, method, problems)
    return problems


def check_data(config: TrainConfig, method: Method, problems: Sequence[Problem]) -> None:
    """Raise ConfigError where the data lack what the method learns from or is graded by."""
    num_shown = sum(bool(problem.demonstration) for problem in problems)
    num_paired = sum(problem.chosen is not None and problem.rejected is not None for problem in problems)
    num_gradable = sum(problem.verifier is not None for problem in problems)
    found = {"demonstrations": num_shown, "pairs": num_paired}
    wanted = [kind for kind in found if wants(method, kind)]
    if wanted and not any(found[kind] for kind in wanted):
        columns = {"demonstrations": "the column", "pairs": "the columns chosen and rejected"}
        raise ConfigError(
            f"method {config.method!r} needs {' or '.join(wanted)} and {config.dataset!r} has none: "
            f"add {' or '.join(columns[kind] for kind in wanted)}"
        )
    graded = method.grades and wants(method, "rollouts") and config.reward_model is None
    if graded and num_gradable < len(problems):
        raise ConfigError(
            f"method {config.method!r} needs answers that can be checked: {len(problems) - num_gradable} of "
            f"{len(problems)} problems of {config.dataset!r} have none; add `answer` or give --verifier"
        )
