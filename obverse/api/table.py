"""Rows that a run has stored, as a sequence with columns: its metrics, its completions, a comparison's figures."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from obverse.errors import ConfigError
from obverse.lazy_import import load
from obverse.notebook_html import block, paragraph, table, text

Row = Mapping[str, Any]

MOST_ROWS, MOST_COLUMNS = 12, 10  # that a notebook shows of a table


class Table(Sequence[Row]):
    """A sequence of rows, each a mapping from column names to values; a row may lack columns.

    `table[-1]` is a row, `table[:10]` a table of the first rows, and `table["reward"]` the list of a column's values,
    with None for rows that lack it.

    Example:
        >>> table = Table([{"step": 1, "reward": 0.5}, {"step": 2}])
        >>> table.columns
        ['step', 'reward']
        >>> table["reward"]
        [0.5, None]
        >>> table[-1]["step"]
        2
    """

    def __init__(
        self, rows: Sequence[Row], title: str = "", notebook_columns: Sequence[str] = (), most_rows: int = MOST_ROWS
    ) -> None:
        self._rows = list(rows)
        self.title = title
        self._notebook_columns = notebook_columns  # the columns that a notebook shows; (): the first ones
        self._most_rows = most_rows

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order in which the rows first have them."""
        return list(dict.fromkeys(name for row in self._rows for name in row))

    @overload
    def __getitem__(self, key: int) -> Row: ...

    @overload
    def __getitem__(self, key: slice) -> Table: ...

    @overload
    def __getitem__(self, key: str) -> list[Any]: ...

    def __getitem__(self, key: int | slice | str) -> Row | Table | list[Any]:
        if isinstance(key, slice):
            return Table(self._rows[key], self.title, self._notebook_columns, self._most_rows)
        if not isinstance(key, str):
            return self._rows[key]
        if key not in self.columns:
            near = difflib.get_close_matches(key, self.columns, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.columns) or 'no columns'}"
            raise KeyError(f"no column {key!r}: {hint}")
        return [row.get(key) for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __eq__(self, value: object) -> bool:
        return isinstance(value, Table | list) and self._rows == list(value)

    __hash__ = None  # type: ignore[assignment]  # as a list

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame with a row per row. Raises ConfigError if pandas is not installed."""
        try:
            frame = load("pandas:DataFrame")
        except ImportError:
            raise ConfigError("to_pandas needs the library pandas: pip install pandas") from None
        return frame(self._rows, columns=self.columns)

    def __repr__(self) -> str:
        name = self.title or "Table"
        columns = self.columns
        listed = ", ".join(columns[:8]) + (f" and {len(columns) - 8} more" if len(columns) > 8 else "")
        return f"<{name}: {len(self)} rows; columns: {listed or 'none'}>"

    def _repr_html_(self) -> str:
        columns = [name for name in self._notebook_columns or self.columns if name in self.columns][:MOST_COLUMNS]
        first, last = self._rows[: self._most_rows], self._rows[self._most_rows :][-1:]
        rows = [[row.get(name) for name in columns] for row in [*first, *last]]
        parts = [f"{len(self):,} rows", f"{len(self.columns)} columns"]
        if len(first) + len(last) < len(self):
            parts.append(f"the first {len(first)} and the last are shown")
        if len(columns) < len(self.columns):
            parts.append(f"others: {', '.join(name for name in self.columns if name not in columns)}")
        return block(paragraph(text(self.title)), table(columns, rows), paragraph(text("; ".join(parts), 2000), True))
