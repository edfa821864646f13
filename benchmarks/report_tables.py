"""Tables of the report as data, which the template draws and escapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_NARROW = 4  # columns that fit on a phone; rows of wider tables become lists there
_MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """One cell; `share`, 0 to 1, is drawn as a bar, `code` in fixed width."""

    text: str
    numeric: bool = False
    interval: str = ""
    share: float | None = None
    code: bool = False

    @property
    def is_missing(self) -> bool:
        """Whether there was no value."""
        return self.text == _MISSING


@dataclass(frozen=True)
class Table:
    """A caption, columns and rows of as many cells; the first cell names its row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: tuple[Cell, ...] = ()

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold figures."""
        return tuple(any(cell.numeric for cell in column) for column in zip(*self.rows))  # noqa: B905

    @property
    def is_wide(self) -> bool:
        """Whether a phone is too narrow for it."""
        return len(self.columns) > _NARROW


def make_table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell | str | None]],
    total: Sequence[Cell | str | None] = (),
) -> Table | None:
    """Return a table without the columns that no row has a value in; None without rows."""
    made = [tuple(map(_make_cell, row)) for row in rows]
    if not made:
        return None
    kept = [index for index, column in enumerate(zip(*made, strict=True))
            if index == 0 or any(not cell.is_missing for cell in column)]  # fmt: skip
    last = tuple(map(_make_cell, total))
    return Table(
        caption,
        tuple(columns[index] for index in kept),
        tuple(tuple(row[index] for index in kept) for row in made),
        tuple(last[index] for index in kept) if last else (),
    )


def figure(
    value: float | None, style: str = ".2f", bounds: Sequence[float] | None = None
) -> Cell | None:
    """Return a number in a format of `format`, and its interval; None without a number."""
    if value is None:
        return None
    interval = "[" + ", ".join(format(bound, style) for bound in bounds) + "]" if bounds else ""
    return Cell(format(value, style), numeric=True, interval=interval)


def code(text: str) -> Cell:
    """Return text in fixed width."""
    return Cell(text, code=True)


def bar(share: float) -> Cell:
    """Return a share, 0 to 1, as a bar with its percentage."""
    return Cell(f"{share:.0%}", share=share)


def _make_cell(value: Cell | str | None) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell(_MISSING if value is None else value)
