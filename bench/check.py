"""Compare the gradients of obverse and TRL on one batch of a case, with the trainers of `make test-parity`.

    PYTHONPATH=tests python -m bench.check A      # prints one line of JSON

The batch is sampled by the case's model from a few of its problems; then each program computes the gradient of its loss
by every parameter: TRL's trainer, and obverse's update up to the optimizer step. Gradients are compared because GRPO's
loss is near 0 for any weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from parity.trainers import NUM_GENERATIONS, Start, as_trl, named, trained_by_demonstrations, trained_by_samples
from torch import Tensor

from bench.cases import CASES, Case
from bench.material import model_folder, problem_file
from bench.rewards import uneven
from obverse.config.train import CPU_TOKENS
from obverse.data import load_dataset
from obverse.data.renderer import Renderer
from obverse.estimator.method import Method
from obverse.estimator.schedule import only
from obverse.inference import SamplingParams
from obverse.inference.hf import HFSampler
from obverse.methods import build
from obverse.models.batch import pack
from obverse.models.load import load
from obverse.models.policy import as_policy
from obverse.runtime.callbacks import Silent
from obverse.training.collector import Collector
from obverse.training.learners import Learner
from obverse.training.optimizer import StepResult
from obverse.training.prepared_update import prepare_update
from obverse.training.update import optimizer_step
from obverse.types import GradeResult, Group

NUM_PROBLEMS, MAX_NEW = 3, 48


def batch(case: Case) -> list[Group]:
    """A few groups of the case, with a reward that is uneven in every group."""
    policy, tokenizer = load(model_folder(case))
    renderer = Renderer(tokenizer, eos_ids=policy.model.generation_config.eos_token_id)
    params = SamplingParams(renderer.stop_ids, min(case.max_new, MAX_NEW))
    options = {} if case.method == "sft" else {"num_generations": NUM_GENERATIONS}
    method = only(build(case.method, options))
    problems = load_dataset(problem_file(case), num_problems=NUM_PROBLEMS)
    groups = Collector(HFSampler(policy.model), renderer, params, 0).collect(problems, method, 0, 0.0)
    for group in groups:
        for sample in group.samples:
            sample.grade = GradeResult(None, uneven(group.problem, sample.text))
    return groups


class NoStep:
    """An optimizer without steps: the gradients are kept."""

    learning_rate = 0.0

    def step(self, is_finite: bool = True) -> StepResult:
        return StepResult(0.0, taken=False)

    def zero_grad_step(self) -> None:
        pass


def ours(start: Start, method: Method, groups: Sequence[Group]) -> dict[str, Tensor]:
    """obverse's gradients by parameter name: one on-policy update, with the micro batches of a run."""
    update = pack([method.select(group) for group in groups], method.sources)
    assert update is not None
    policy = as_policy(start.model())
    learner = Learner(policy, None, method, NoStep(), CPU_TOKENS)  # type: ignore[arg-type]
    optimizer_step(learner, prepare_update(learner, update, is_repeated=False), 0.0, Silent())
    return named(policy.model)


def both(case: Case, groups: Sequence[Group]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients of obverse and of TRL by name, from the weights in the model's folder."""
    start = Start(Path(model_folder(case)), noise=0.0)
    if case.method == "sft":
        result = trained_by_demonstrations(start, groups, {"loss_type": "nll"})
        return ours(start, only(build("sft", {})), groups), result.parameters
    method = as_trl(only(build(case.method, dict(case.options))))
    return ours(start, method, groups), trained_by_samples(start, groups, {"loss_type": "grpo", "beta": 0.0}).parameters


def apart(ours_by_name: dict[str, Tensor], theirs_by_name: dict[str, Tensor]) -> float:
    """The largest difference over the largest number."""
    if ours_by_name.keys() != theirs_by_name.keys():
        raise SystemExit("the two programs do not train the same weights")
    scale = max(float(gradient.abs().max()) for gradient in theirs_by_name.values())
    return max(float((ours_by_name[name] - gradient).abs().max()) for name, gradient in theirs_by_name.items()) / scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    case = CASES[parser.parse_args().case]
    torch.set_num_threads(1)
    groups = batch(case)
    num_tokens = sum(len(sample.ids) for group in groups for sample in group.samples)
    print(json.dumps({"samples": sum(len(group.samples) for group in groups), "tokens": num_tokens,
                      "apart": apart(*both(case, groups))}))  # fmt: skip


if __name__ == "__main__":
    main()
