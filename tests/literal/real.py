"""ms-swift's loss_type real: a logistic loss per problem, of the mean log-ratios of right and of wrong samples."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(tau: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, problems = torch.zeros((), dtype=torch.float64), data.samples.group.unique().tolist()
        scores = {row: (data.logp[mask] - data.tokens.behavior[mask]).mean() for row, mask in data.rows(Source.ROLLOUT)}
        for problem in problems:
            rows = [row for row in scores if data.samples.group[row] == problem]
            mean = data.samples.reward[rows].mean()
            right = [row for row in rows if data.samples.reward[row] > mean]
            wrong = [row for row in rows if row not in right]
            if right and wrong:
                total = total + torch.log(1 + sum(torch.exp(scores[row] / tau) for row in wrong))
                total = total + torch.log(1 + sum(torch.exp(-scores[row] / tau) for row in right))
        return total / len(problems)

    return literal


CASES = [({}, objective(0.5)), ({"tau": 2.0}, objective(2.0))]
