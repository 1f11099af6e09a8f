"""Teachers of the enumerable policy, exactly: a better table, or a table that has read a completion.

A table reads no prompt, so what a context does to a teacher is a model of it: at each position of the completion that
the teacher has read, the log-odds of the completion's token are `COPY` higher. Feedback changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from obverse.analysis.enumerable_policy import DEMONSTRATION, STOP, Table, contexts, move_to
from obverse.estimator.divergence import Divergence
from obverse.estimator.method import Method
from obverse.estimator.teacher import Teacher, TeacherContext
from obverse.models.fused_divergence import Comparison, LogitDivergence, Target
from obverse.types import Group, Sample

COPY = 2.0  # nats
OF_GROUP = ("sibling", "feedback")  # contexts that differ from sample to sample


@dataclass(frozen=True)
class Models:
    """The policy, the initial model, and the better policy that a teacher of another model is."""

    policy: Table
    initial: Table
    trained: Table | None = None  # None: `better_than` the policy

    @cached_property
    def teacher(self) -> Table:
        """The table of a teacher that is another model."""
        return better_than(self.policy) if self.trained is None else self.trained

    def table_of(self, teacher: Teacher, context: TeacherContext) -> Table:
        """The table by which a teacher scores what it reads in this context; an average is the policy itself."""
        tables = {"policy": self.policy, "average": self.policy, "initial": self.initial}
        table = self.teacher if teacher.who == "model" else tables[teacher.who]
        if context.kind == "demonstration":
            return has_read(table, DEMONSTRATION.ids)
        if context.kind == "sibling":
            return has_read(table, [*map(int, context.text), STOP])
        return table


def better_than(policy: Table) -> Table:
    """The policy after gradient ascent to a success rate halfway to 1."""
    return move_to(policy, (1 + float(policy.success())) / 2)


def has_read(table: Table, ids: Sequence[int]) -> Table:
    """The table with the tokens of a completion `COPY` nats more likely, in log-odds, at their positions."""
    logits = table.logits.clone()
    logits[contexts(ids), list(ids)] += COPY
    return Table(logits)


def tables_of_teacher(method: Method, group: Group, samples: Sequence[Sample], models: Models) -> list[Table]:
    """The table by which the method's teacher scores each of the group's samples; the policy's where it has no context.

    No part reads the teacher at samples without a context.
    """
    tables = []
    for sample in samples:
        context = None if method.teacher is None else method.teacher.context(group, sample)
        if method.teacher is None or context is None:
            tables.append(models.policy)
        else:
            tables.append(models.table_of(method.teacher, context))
    return tables


def divergence(form: Divergence, logits: Tensor, target: Tensor, observed: Tensor) -> Tensor:
    """D of the policy's `logits` [T, V] from the target's [T, V], by the module that training uses; [T]."""
    comparison = Comparison(form, Target(target, lambda states: states), observed, torch.ones_like(logits[:, 0]))
    value: Tensor = LogitDivergence.apply(logits, comparison, slice(0, len(logits)))  # type: ignore[no-untyped-call]
    return value


def reverse_kl_gradient(policy: Table, teacher: Table) -> Tensor:
    """The direction that lowers sum_t KL(policy || teacher) at the states of the policy's completions; [C * V].

    The states are those that the policy visits, and the gradient is that of each token's own KL: discount 0.
    """
    leaf = policy.logits.detach().clone().requires_grad_()
    logp = leaf.log_softmax(-1)
    kl = (logp.exp() * (logp - teacher.logp)).sum(-1)
    (gradient,) = torch.autograd.grad(-(policy.visits * kl).sum(), leaf)
    return gradient.flatten()


def distillation_gradient(method: Method, models: Models) -> Tensor | None:
    """The gradient of the reverse KL from the method's teacher; None without one teacher for all its rollouts."""
    if method.teacher is None or len(method.teacher.contexts) > 1 or method.teacher.contexts[0] in OF_GROUP:
        return None
    (kind,) = method.teacher.contexts
    return reverse_kl_gradient(models.policy, models.table_of(method.teacher, TeacherContext(kind, "")))
