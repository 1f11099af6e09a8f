"""Which columns a part may declare in `needs`, and what stands in a table where a column holds no numbers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from obverse.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

# What a name in `needs` opens to the part that declares it, as `table.column`.
OPENS: dict[str, tuple[str, ...]] = {
    "behavior": ("tokens.behavior",),
    "anchor": ("tokens.anchor",),
    "sampler": ("tokens.sampler",),
    "advantage": ("tokens.advantage", "tokens.value", "tokens.returns"),  # one critic writes all three
    "value": ("tokens.value",),
    "returns": ("tokens.returns",),
    "entropy": ("policy.entropy",),
    "reward": ("samples.reward", "samples.correct"),  # one verdict gives both
    "correct": ("samples.reward", "samples.correct"),
}
DECLARED = frozenset(column for columns in OPENS.values() for column in columns)  # hidden from a part without its name
WRITTEN_BY_CRITIC = frozenset({"advantage", "value", "returns"})
# Demands on the update instead of columns (two samples or more), and columns that every update has.
OTHERS = ("group", "own_group", "memory", "draw", "truncated", "counts", "sample", "source", "position", "logp")
NAMES = (*OPENS, *OTHERS)

_HINTS = {
    "tokens.advantage": "only a critic writes it: give the Method critic=GAE()",
    "tokens.value": "only a critic writes it: give the Method critic=GAE()",
    "tokens.returns": "only a critic writes it: give the Method critic=GAE()",
    "tokens.reward": "only shaping writes it: give the Method shaping=(...,), or read view.samples.reward",
    "samples.memory": "only a memory fills it: give the Method memory=...",
    "policy.value": 'only a scalar head fills it: give the Method a term with on="value" or on="score"',
    "policy.logp": "a reward model has a scalar head and no log-probs, and what `is_policy_independent` reads none",
    "policy.entropy": "no distribution is at hand here",
}

_SHAPES = frozenset({"shape", "dtype", "device", "ndim", "size", "dim", "numel"})
_MAKERS = frozenset({"new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"})
_LIKE = frozenset({"zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"})
_MOVES = frozenset({"to", "cpu", "cuda", "double", "float", "detach"})


class Unfilled:
    """Stands where a column holds no numbers: shape, type and device may be asked for, its numbers raise ConfigError.

    `like` has the column's shape; `column` is its name as `table.column`; `part` is the one it is shown to, if any.
    """

    def __init__(self, column: str, like: Any, part: object = None) -> None:
        self.column, self.part = column, part
        self.like: Tensor = like.like if isinstance(like, Unfilled) else like

    def refusal(self) -> ConfigError:
        """The error that names the part, the column, and what to write."""
        hint = _HINTS.get(self.column, "nothing computes it here")
        if self.part is None:
            return ConfigError(f"the column {self.column} was read and holds no numbers: {hint}")
        name = type(self.part).__name__
        needs = part_needs(self.part)
        opening = next((need for need, columns in OPENS.items() if self.column in columns), "")
        if opening and not any(self.column in OPENS.get(need, ()) for need in needs):
            wanted = ", ".join(repr(need) for need in sorted({*needs, opening}))
            return ConfigError(
                f"the part {name} reads view.{self.column} and does not declare it: write "
                f"needs = frozenset({{{wanted}}}) in the class {name}"
            )
        return ConfigError(f"the part {name} reads view.{self.column}, which holds no numbers: {hint}")

    def changed(self, change: Callable[[Tensor], Tensor]) -> Unfilled:
        """The same for a column of another shape, type or device."""
        return Unfilled(self.column, change(self.like), self.part)

    def __len__(self) -> int:
        return len(self.like)

    def __repr__(self) -> str:
        return f"Unfilled({self.column})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "like":
            raise AttributeError(name)
        if name == "requires_grad":
            return False
        if name in _SHAPES or name in _MAKERS:
            return getattr(self.like, name)
        if name in _MOVES:
            return lambda *args, **options: self.changed(lambda like: getattr(like, name)(*args, **options))
        raise self.refusal()

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, options = getattr(function, "__name__", ""), kwargs or {}
        if name in _LIKE and args and isinstance(args[0], Unfilled):
            return function(args[0].like, *args[1:], **options)
        raise _first([*args, *options.values()]).refusal()


def _first(values: Iterable[Any]) -> Unfilled:
    """The first Unfilled among the values and the lists in them."""
    for value in values:
        if isinstance(value, Unfilled):
            return value
        if isinstance(value, list | tuple):
            for inner in value:
                if isinstance(inner, Unfilled):
                    return inner
    raise TypeError("no column among the arguments")


def _raises(self: Unfilled, *others: object) -> NoReturn:
    raise self.refusal()


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
_OPERATORS = (
    *(f"__{side}{name}__" for name in _BINARY for side in ("", "r")),
    *(f"__{name}__" for name in ("neg", "pos", "abs", "invert", "lt", "le", "gt", "ge", "eq", "ne", "bool", "float")),
    *(f"__{name}__" for name in ("int", "index", "complex", "getitem", "setitem", "iter", "contains", "array")),
)
for _operator in _OPERATORS:
    setattr(Unfilled, _operator, _raises)
Unfilled.__hash__ = object.__hash__  # type: ignore[method-assign]


def part_needs(part: object) -> frozenset[str]:
    """The names that a part declares; none for a plain function."""
    return frozenset(getattr(part, "needs", frozenset()))


@cache
def hidden(needs: frozenset[str]) -> frozenset[str]:
    """The columns, as `table.column`, that a part with these `needs` does not see."""
    return DECLARED.difference(*(OPENS.get(need, ()) for need in needs))


def shown(part: object, table: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a table as `part` may see them: numbers, or what raises once they are read."""
    closed = hidden(part_needs(part))
    return {
        name: Unfilled(f"{table}.{name}", column, part)
        if f"{table}.{name}" in closed or isinstance(column, Unfilled)
        else column
        for name, column in columns.items()
    }


def filled(result: Any) -> Any:
    """What a part returned; ConfigError where that is a column without numbers."""
    if isinstance(result, Unfilled):
        raise result.refusal()
    return result


def check_needs(part: object) -> None:
    """Raise ValueError for a `needs` that is no set of names, or has a name that no column has."""
    needs: Any = getattr(part, "needs", frozenset())
    name = type(part).__name__
    if not isinstance(needs, set | frozenset):
        raise ValueError(f"{name}.needs is a set of names, as frozenset({{'anchor'}}), not {needs!r:.60}")
    for need in sorted(map(str, needs)):
        if need not in NAMES:
            near = difflib.get_close_matches(need, NAMES, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(NAMES)}"
            raise ValueError(f"{name}.needs names {need!r}, which no column is called: {hint}")
