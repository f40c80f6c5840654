"""Training rows as they are used: `Pairs`, their division (`Splits`), and what was found on them (`Check`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Check:
    """One fact about rows or a collection, found before they are used."""

    severity: Literal["error", "warning", "note"]  # an error stops the training
    message: str  # one sentence


@dataclass(frozen=True)
class Pairs:
    """Rows that a loss can read."""

    rows: Dataset  # columns in the order of the loss
    columns: tuple[str, ...]  # ("anchor", "positive")
    sha256: str  # of the file's bytes; of the rows where there is no single file
    origin: str  # where they came from: a path, "sample:porsche", a Hub id
    checks: tuple[Check, ...] = ()  # what was found while they were read

    def __len__(self) -> int:
        return len(self.rows)

    def texts(self, column: str) -> list[str]:
        return list(self.rows[column])


@dataclass(frozen=True)
class Splits:
    """Rows for training and for the two evaluations; a part that the data do not have is None."""

    train: Pairs
    validation: Pairs | None = None
    test: Pairs | None = None
    more: Mapping[str, Pairs] = field(default_factory=dict)  # name -> rows of the recipe's further datasets
    more_held_out: Mapping[str, Pairs] = field(default_factory=dict)  # name -> their rows for the loss on unseen data

    def parts(self) -> dict[str, Pairs]:
        """train, validation and test, those that there are."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}
