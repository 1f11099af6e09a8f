"""`obverse.loss`: the loss of any method for a training loop of one's own, in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from obverse.analysis.step_coefficients import keep, tables, update_loss
from obverse.analysis.step_file import COLUMNS, KINDS, Row
from obverse.api.method_source import AnyMethod, schedule_of
from obverse.errors import ConfigError
from obverse.estimator.method import Method
from obverse.estimator.tables import MISSING, PolicyOutputs
from obverse.types import POLICY_KINDS, GradeResult, ModelInput, Sample, Source


def loss(
    method: AnyMethod,
    logp: Tensor,
    mask: Tensor,
    *,
    reward: Tensor | Sequence[float | None] | None = None,
    problem: Sequence[Any],
    kind: str | Sequence[str] = "rollout",
    behavior: Tensor | None = None,
    anchor: Tensor | None = None,
    entropy: Tensor | None = None,
    value: Tensor | None = None,
    divergence: Tensor | None = None,
    columns: Mapping[str, Tensor] | None = None,
    correct: Sequence[bool] | Tensor | None = None,
    truncated: Sequence[bool] | Tensor | None = None,
    num_hint: Sequence[int] | None = None,
    uniform: Sequence[float] | None = None,
    memory: Sequence[float] | None = None,
    progress: float = 0.0,
    **options: Any,
) -> Tensor:
    """Compute the loss of an update; its gradient is that of `obverse.train` on the same samples.

    It is a scalar: call `backward()` on it, clip, and step the optimizer. All samples of the update are given at once,
    because normalizers and baselines count over all of them: S samples of at most L tokens. Samples that the method
    does not select contribute nothing. The value is the surrogate's; only its gradient is the published loss's.

    Args:
        method: A name, `"file.py:function"`, a function that returns a Method, or a Method.
        logp: Log-probs of the response tokens under the policy, with their graph; [S, L]. For rollouts, `obverse.train`
            divides the logits by the temperature that they were sampled at (`rft`: 0.7).
        mask: Which of them are tokens of a response; bool [S, L].
        reward: The reward of each sample; [S]. None, for all or for one: none, of samples that are not rollouts.
        problem: The name or index of each sample's problem; the samples of one problem are a group; [S].
        kind: `rollout`, `demonstration`, `hinted`, `greedy`, `chosen` or `rejected`, for all samples or for each; [S].
        behavior: Log-probs under the policy that sampled the rollouts; [S, L]. None: those of `logp`.
        anchor: Log-probs under the frozen initial model, where the method reads it; [S, L].
        entropy: Entropies of the policy's distributions, with their graph, for an entropy bonus; [S, L].
        value: A critic's values or a reward model's scores, with their graph; [S, L].
        divergence: Divergences of the policy's distributions from their target, with their graph, of a method with a
            divergence over the vocabulary; [S, L].
        columns: Further columns by name, [S, L] each: `advantage`, `old_value`, `returns` (of a critic), `sampler`,
            `teacher` (log-probs under the method's teacher).
        correct: Whether each sample is correct; [S]. None: a reward of at least 1.
        truncated: Whether each sample was ended by the length limit; [S]. None: none of them.
        num_hint: The number of each sample's first tokens that are a hint; [S]. None: 0.
        uniform: A number in [0, 1) per sample, equal for a problem, for random choices; [S].
        memory: The method's stored number for each sample's problem; [S].
        progress: The fraction of the run that is done, for schedules and weights that change.
        options: The method's options, in place of the paper's.

    Raises:
        ConfigError: For shapes that do not fit, for the method's options, and for several stages at this progress.
        DataError: For a column that the method reads and that is not given.

    Example:
        >>> logp = torch.tensor([[-0.5], [-1.5]], requires_grad=True)
        >>> mask = torch.ones(2, 1, dtype=torch.bool)
        >>> loss("dr_grpo", logp, mask, reward=[1.0, 0.0], problem=[0, 0], max_completion_length=1).backward()
        >>> logp.grad
        tensor([[-0.2500],
                [ 0.2500]])
    """
    estimator, stage_progress = _method_at(method, options, progress)
    given = {"behavior": logp.detach() if behavior is None else behavior, "anchor": anchor, "entropy": entropy}
    given |= {"value": value, **(columns or {})}
    _check(logp, mask, given, estimator)
    _check_divergence(logp, divergence, estimator)
    facts: dict[str, Any] = {
        "reward": reward,
        "problem": problem,
        "kind": [kind] * len(logp) if isinstance(kind, str) else kind,
    }
    facts |= {"correct": correct, "truncated": truncated, "num_hint": num_hint, "uniform": uniform, "memory": memory}
    rows = _rows(logp, mask, given, {name: _listed(name, fact, len(logp)) for name, fact in facts.items()})
    memories = keep(estimator, rows)
    selected = [index for index, row in enumerate(rows) if id(row.sample) in memories]
    if not selected:
        return (logp[mask] * 0.0).sum()
    dtype = torch.promote_types(logp.dtype, torch.float32)

    def placed(column: Tensor) -> Tensor:
        return column.to(logp.device, dtype if column.is_floating_point() else column.dtype)

    tokens, samples, _ = tables(estimator, [rows[index] for index in selected], memories)
    tokens = tokens.map_columns(placed)
    samples = samples.map_columns(placed)

    def flat(column: Tensor) -> Tensor:
        return torch.cat([column[index][mask[index]] for index in selected]).to(dtype)

    outputs = PolicyOutputs(
        flat(logp),
        flat(torch.zeros_like(logp) if entropy is None else entropy),
        MISSING if value is None else flat(value),
    )
    compared = None if divergence is None else flat(divergence)
    return update_loss(estimator, tokens, samples, outputs, stage_progress, value is not None, compared)


def _method_at(method: AnyMethod, options: Mapping[str, Any], progress: float) -> tuple[Method, float]:
    """The method that acts at this point of a run, and the progress within its stage."""
    _, schedule = schedule_of(method, options)
    stages = schedule.at(progress)
    if len(stages) > 1:
        raise ConfigError("the method has several stages at this progress: give the Method of one of them")
    return schedule.methods[stages[0]], schedule.selector.progress(stages[0], progress)


def _check_divergence(logp: Tensor, divergence: Tensor | None, method: Method) -> None:
    """Raise ConfigError for a divergence of another shape or none, and for rewards that cannot be given apart."""
    if divergence is not None and divergence.shape != logp.shape:
        raise ConfigError(f"divergence: has the shape {list(divergence.shape)}, and logp {list(logp.shape)}")
    if divergence is None and "divergence" in method.streams:
        raise ConfigError("divergence: the method has a divergence over the vocabulary: give its values")
    if method.needs("rewards"):
        raise ConfigError("reward: the method reads several rewards apart, which only runs and step files can give it")


def _check(logp: Tensor, mask: Tensor, given: Mapping[str, Tensor | None], method: Method) -> None:
    """Raise ConfigError for shapes that differ, unknown columns, and a stream without its output."""
    if logp.ndim != 2 or mask.dtype != torch.bool:
        raise ConfigError(f"logp: expects [samples, tokens] and a bool mask, not {list(logp.shape)} and {mask.dtype}")
    for name, column in {"mask": mask, **given}.items():
        if name not in (*COLUMNS, "mask"):
            raise ConfigError(f"columns: there is no {name!r}: there are {', '.join(COLUMNS)}")
        if column is not None and column.shape != logp.shape:
            raise ConfigError(f"{name}: has the shape {list(column.shape)}, and logp {list(logp.shape)}")
    if given["entropy"] is None and "entropy" in method.streams:
        raise ConfigError("entropy: the method has an entropy bonus: give the entropies, or switch it off")


def _listed(name: str, values: Any, num_samples: int) -> list[Any]:
    """A fact of every sample as a list; None for each where it is not given."""
    if values is None:
        return [None] * num_samples
    values = values.tolist() if hasattr(values, "tolist") else list(values)  # of torch or NumPy
    if len(values) != num_samples:
        raise ConfigError(f"{name}: has {len(values)} values for {num_samples} samples")
    return values


def _rows(logp: Tensor, mask: Tensor, given: Mapping[str, Tensor | None], facts: Mapping[str, list[Any]]) -> list[Row]:
    """The samples as the records that methods select from, with their columns as numbers."""
    rows = []
    for index in range(len(logp)):
        fact = {name: values[index] for name, values in facts.items()}
        columns = {name: _numbers(given.get(name), mask, index) for name in COLUMNS}
        if fact["kind"] not in KINDS:
            raise ConfigError(f"kind: expects one of {', '.join(KINDS)}, not {fact['kind']!r:.40}")
        reward = _reward(fact["reward"], fact["kind"], index)
        source = Source.ROLLOUT if fact["kind"] in POLICY_KINDS else Source[fact["kind"].upper()]
        length, num_hint = int(mask[index].sum()), fact["num_hint"] or 0
        if not 0 <= num_hint <= length:
            raise ConfigError(f"num_hint: sample {index} has {length} tokens, not {num_hint} of a hint")
        sample = Sample(
            kind=fact["kind"],
            prompt=ModelInput((0,)),
            ids=list(range(length)),
            sources=[Source.HINT] * num_hint + [source] * (length - num_hint),
            behavior=[number or 0.0 for number in columns["behavior"] or ()],
            text="",
            finish="length" if fact["truncated"] else "stop",
            grade=GradeResult(reward >= 1.0 if fact["correct"] is None else bool(fact["correct"]), reward),
            uniform=1.0 if fact["uniform"] is None else float(fact["uniform"]),
        )
        numbers = _numbers(logp, mask, index) or []
        name = f"sample {index}"
        has_reward = fact["reward"] is not None
        rows.append(
            Row(name, fact["problem"], sample, has_reward, fact["memory"], [n or 0.0 for n in numbers], columns)
        )
    return rows


def _reward(value: Any, kind: str, index: int) -> float:
    """A sample's reward; NaN for a demonstration or pair without one, as in a step file. Raises ConfigError."""
    if value is None and kind not in POLICY_KINDS:
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"reward: expects a finite number for sample {index}, a {kind}, not {value!r:.40}")
    return number


def _numbers(column: Tensor | None, mask: Tensor, index: int) -> list[float | None] | None:
    """A column of one sample, at the tokens of its response; None for an absent column."""
    return None if column is None else column[index][mask[index]].detach().double().tolist()
