"""Published learning rates, by method, size of the model and LoRA: hints, which never change a value.

A rate is listed only with its source. Methods without a row have their paper's rate as a default, and their page names
its source.
"""

from __future__ import annotations

import math
from typing import NamedTuple

FAR = 2.0  # a rate that differs by more than this factor from the published one is reported
TINY = 0.1  # a model smaller than this share of the smallest published one is outside what is known
SMALLEST = 0.5e9  # parameters of the smallest model in the sources of the methods' defaults (UFT, TRL's examples)

# The best rate with LoRA is about ten times that of full fine-tuning, in supervised learning and in RL.
ADAPTER_FACTOR = 10.0
ADAPTER_SOURCE = "Schulman et al. 2025, LoRA Without Regret, doi:10.64434/tml.20250929"
TINKER = "tinker-cookbook, recipes/distillation"
TRL_SFT, TRL_DPO = "TRL 1.16, scripts/sft.py", "TRL 1.16, scripts/dpo.py"


class PublishedRate(NamedTuple):
    """A learning rate, the sizes of the models that it was used for in billions of parameters, and where."""

    rate: float
    smallest: float
    largest: float
    source: str
    has_adapters: bool = False

    @property
    def text(self) -> str:
        sizes = f"{self.smallest:g}B" + (f" to {self.largest:g}B" if self.largest != self.smallest else "")
        return f"{self.rate:g}{' with LoRA' if self.has_adapters else ''} at {sizes} ({self.source})"

    def distance(self, num_parameters: int) -> float:
        """How far a model is outside the sizes: the logarithm of the factor, 0 inside."""
        billions = num_parameters / 1e9
        return max(math.log(self.smallest / billions), math.log(billions / self.largest), 0.0)


PUBLISHED: dict[str, tuple[PublishedRate, ...]] = {
    "sft": (
        PublishedRate(2e-5, 0.5, 0.5, TRL_SFT),
        PublishedRate(5e-5, 1.5, 7.6, "SFT baselines of LUFFY, arXiv 2504.14945, and DFT, arXiv 2508.05629"),
        PublishedRate(2e-4, 0.5, 3, f"{TRL_SFT}, and its guide LoRA Without Regret", has_adapters=True),
    ),
    "dft": (
        PublishedRate(5e-5, 1.5, 7.6, "arXiv 2508.05629, sec. 4.1"),
        PublishedRate(2e-5, 8, 8, "arXiv 2508.05629, sec. 4.1"),
    ),
    "dpo": (
        PublishedRate(5e-7, 0.5, 0.5, TRL_DPO),
        PublishedRate(5e-6, 0.5, 0.5, TRL_DPO, has_adapters=True),
    ),
    "grpo": (
        PublishedRate(1e-6, 3, 7, "arXiv 2402.03300 and TRL's guide LoRA Without Regret"),
        PublishedRate(1e-5, 3, 3, "TRL's guide LoRA Without Regret", has_adapters=True),
    ),
    "opd": (
        PublishedRate(5e-5, 9, 9, TINKER),
        PublishedRate(1e-4, 9, 9, TINKER, has_adapters=True),
    ),
    "opsd": (PublishedRate(2e-5, 4, 4, "arXiv 2601.18734, the authors' run_opsd.sh", has_adapters=True),),
    "hpt": (PublishedRate(5e-6, 1.5, 8, "arXiv 2509.04419, the authors' scripts"),),
    "luffy": (PublishedRate(1e-6, 7.6, 7.6, "arXiv 2504.14945, the authors' script"),),
    "uft": (PublishedRate(1e-6, 0.5, 0.5, "arXiv 2505.16984, the authors' run.py"),),
}


def published_rates(method: str) -> tuple[PublishedRate, ...]:
    """The published rates of a method; empty where only the method's page has its source."""
    return PUBLISHED.get(method, ())


def rate_hint(method: str, rate: float, num_parameters: int | None, has_adapters: bool) -> str | None:
    """A sentence on a published rate where the default `rate` is far from it; None otherwise.

    `num_parameters` is the size of the model, None where it is unknown. The caller asks only where the user gave no
    learning rate.

    Example:
        rate_hint("sft", 2e-5, 500_000_000, has_adapters=True)  # ... 2e-4 with LoRA at 0.5B to 3B (TRL 1.16, ...)
    """
    rows = published_rates(method)
    fitting = [row for row in rows if row.has_adapters == has_adapters]
    smallest = min([row.smallest * 1e9 for row in fitting], default=SMALLEST)
    if num_parameters is not None and num_parameters < TINY * smallest:
        return (
            f"the default is {rate:g}; the smallest model with a published rate has {smallest / 1e9:g}B parameters, "
            f"this one {num_parameters / 1e6:,.1f}M: smaller models mostly need a larger --learning_rate"
        )
    if fitting:
        nearest = min(fitting, key=lambda row: row.distance(num_parameters) if num_parameters else 0.0)
        is_larger = num_parameters is not None and num_parameters > FAR * nearest.largest * 1e9
        if is_larger and nearest.rate > rate and not has_adapters:
            return None  # larger models mostly need a smaller rate
        if far(rate, nearest.rate):
            return f"the default is {rate:g}, published is {nearest.text}: see --learning_rate"
        return None
    if has_adapters:
        hint = f"{ADAPTER_FACTOR * rate:g}"
        return f"the default is {rate:g}; if it is of full training, LoRA mostly needs {hint} ({ADAPTER_SOURCE})"
    return None


def far(rate: float, published: float) -> bool:
    """Whether two rates differ by more than the factor FAR."""
    return rate > 0 and abs(math.log(rate / published)) > math.log(FAR) + 1e-9
