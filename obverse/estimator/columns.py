"""The columns that a part may declare in `needs`, and the placeholder for a column without numbers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from obverse.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

# The columns, as `table.column`, that a part may read once its `needs` has the name.
COLUMNS_BY_NEED: dict[str, tuple[str, ...]] = {
    "behavior": ("tokens.behavior",),
    "anchor": ("tokens.anchor",),
    "sampler": ("tokens.sampler",),
    "teacher": ("tokens.teacher",),
    "advantage": ("tokens.advantage", "tokens.value", "tokens.returns"),  # one critic writes all three
    "value": ("tokens.value",),
    "returns": ("tokens.returns",),
    "entropy": ("policy.entropy",),
    "update": ("update",),
    "reward": ("samples.reward", "samples.correct"),  # one grade gives both
    "correct": ("samples.reward", "samples.correct"),
    "rewards": ("samples.rewards", "samples.reward_weights"),  # of each reward function by itself
}
# Hidden from a part that does not declare them.
HIDEABLE_COLUMNS = frozenset(column for columns in COLUMNS_BY_NEED.values() for column in columns)
WRITTEN_BY_CRITIC = frozenset({"advantage", "value", "returns"})
# Requirements on the update rather than columns (groups of two or more), and columns that every update has.
ALWAYS_VISIBLE = (
    "group",
    "own_group",
    "memory",
    "uniform",
    "truncated",
    "counts",
    "sample",
    "source",
    "position",
    "logp",
)
NAMES = (*COLUMNS_BY_NEED, *ALWAYS_VISIBLE)

_HINTS = {
    "tokens.advantage": "only a critic writes it: give the Method critic=GAE()",
    "tokens.value": "only a critic writes it: give the Method critic=GAE()",
    "tokens.returns": "only a critic writes it: give the Method critic=GAE()",
    "tokens.teacher": "only a teacher fills it: give the Method teacher=Teacher(...)",
    "tokens.reward": "only shaping writes it: give the Method shaping=(...,), or read inputs.samples.reward",
    "samples.memory": "only a memory fills it: give the Method memory=...",
    "policy.value": 'only a scalar head fills it: give the Method a term with on="value" or on="score"',
    "policy.divergence": "it compares whole distributions with a target's, which are computed in training only",
    "policy.logp": "a reward model has a scalar head and no log-probs, and is_policy_independent parts read none",
    "update": "a first pass over all micro batches and ranks computes it, in training only",
    "policy.entropy": "no distribution is computed at this point",
}

_SHAPES = frozenset({"shape", "dtype", "device", "ndim", "size", "dim", "numel"})
_MAKERS = frozenset({"new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"})
_LIKE = frozenset({"zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"})
_MOVES = frozenset({"to", "cpu", "cuda", "double", "float", "detach"})


class MissingColumn:
    """A column without numbers: it has a shape, dtype and device, and any use of its values raises ConfigError.

    `column` is its name as `table.column`, `like` a tensor of its shape, `part` the part that reads it, if any.
    """

    def __init__(self, column: str, like: Any, part: object = None) -> None:
        self.column, self.part = column, part
        self.like: Tensor = like.like if isinstance(like, MissingColumn) else like

    def error(self) -> ConfigError:
        """The error that names the part, the column, and the fix."""
        hint = _HINTS.get(self.column, "nothing computes it here")
        if self.part is None:
            return ConfigError(f"the column {self.column} was read and holds no numbers: {hint}")
        name = type(self.part).__name__
        needs = part_needs(self.part)
        needed = next((need for need, columns in COLUMNS_BY_NEED.items() if self.column in columns), "")
        if needed and not any(self.column in COLUMNS_BY_NEED.get(need, ()) for need in needs):
            names = ", ".join(repr(need) for need in sorted({*needs, needed}))
            return ConfigError(
                f"the part {name} reads inputs.{self.column} and does not declare it: write "
                f"needs = frozenset({{{names}}}) in the class {name}"
            )
        return ConfigError(f"the part {name} reads inputs.{self.column}, which holds no numbers: {hint}")

    def changed(self, change: Callable[[Tensor], Tensor]) -> MissingColumn:
        """The placeholder with another shape, dtype or device."""
        return MissingColumn(self.column, change(self.like), self.part)

    def __len__(self) -> int:
        return len(self.like)

    def __repr__(self) -> str:
        return f"MissingColumn({self.column})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "like":
            raise AttributeError(name)
        if name == "requires_grad":
            return False
        if name in _SHAPES or name in _MAKERS:
            return getattr(self.like, name)
        if name in _MOVES:
            return lambda *args, **options: self.changed(lambda like: getattr(like, name)(*args, **options))
        raise self.error()

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, options = getattr(function, "__name__", ""), kwargs or {}
        if name in _LIKE and args and isinstance(args[0], MissingColumn):
            return function(args[0].like, *args[1:], **options)
        raise _first([*args, *options.values()]).error()


def _first(values: Iterable[Any]) -> MissingColumn:
    """The first MissingColumn among the values and the lists in them."""
    for value in values:
        if isinstance(value, MissingColumn):
            return value
        if isinstance(value, list | tuple):
            for inner in value:
                if isinstance(inner, MissingColumn):
                    return inner
    raise TypeError("no column among the arguments")


def _raises(self: MissingColumn, *operands: object) -> NoReturn:
    raise self.error()


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
_OPERATORS = (
    *(f"__{side}{name}__" for name in _BINARY for side in ("", "r")),
    *(f"__{name}__" for name in ("neg", "pos", "abs", "invert", "lt", "le", "gt", "ge", "eq", "ne", "bool", "float")),
    *(f"__{name}__" for name in ("int", "index", "complex", "getitem", "setitem", "iter", "contains", "array")),
)
for _operator in _OPERATORS:
    setattr(MissingColumn, _operator, _raises)
MissingColumn.__hash__ = object.__hash__  # type: ignore[method-assign]


def part_needs(part: object) -> frozenset[str]:
    """The part's `needs`; empty for a plain function."""
    return frozenset(getattr(part, "needs", frozenset()))


@cache
def hidden_columns(needs: frozenset[str]) -> frozenset[str]:
    """The columns, as `table.column`, that a part with these `needs` may not read."""
    return HIDEABLE_COLUMNS.difference(*(COLUMNS_BY_NEED.get(need, ()) for need in needs))


def visible_columns(part: object, table: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a table for `part`: those it may not read are replaced by a MissingColumn."""
    closed = hidden_columns(part_needs(part))
    return {
        name: MissingColumn(f"{table}.{name}", column, part)
        if f"{table}.{name}" in closed or isinstance(column, MissingColumn)
        else column
        for name, column in columns.items()
    }


def require_numbers(result: Any) -> Any:
    """The result of a part; ConfigError if it is a column without numbers."""
    if isinstance(result, MissingColumn):
        raise result.error()
    return result


def check_needs(part: object) -> None:
    """Raise ValueError for a `needs` that is not a set of names, or names no column."""
    needs: Any = getattr(part, "needs", frozenset())
    name = type(part).__name__
    if not isinstance(needs, set | frozenset):
        raise ValueError(f"{name}.needs is a set of names, as frozenset({{'anchor'}}), not {needs!r:.60}")
    if "divergence" in needs:
        raise ValueError(
            f"{name}.needs names 'divergence': it depends on the state, not on the sampled token, so that as "
            "an advantage its expected gradient is zero: use the divergence's own gradient, a Term with on='divergence'"
        )
    for need in sorted(map(str, needs)):
        if need not in NAMES:
            near = difflib.get_close_matches(need, NAMES, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"the names are {', '.join(NAMES)}"
            raise ValueError(f"{name}.needs names {need!r}, which is no column: {hint}")
