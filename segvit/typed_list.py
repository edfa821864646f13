"""A module list whose members' type the type checker knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


class TypedList(nn.ModuleList, Generic[M]):
    """`nn.ModuleList` of modules of one class."""

    if TYPE_CHECKING:

        def __init__(self, modules: Iterable[M] = ()) -> None: ...

        def __iter__(self) -> Iterator[M]: ...

        def __getitem__(self, index: int) -> M: ...  # type: ignore[override]  # no slices here

        def append(self, module: M) -> Self:  # type: ignore[override]  # M only, as meant
            """Add a module at the end."""
