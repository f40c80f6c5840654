"""A query of the user's, answered by stored vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import made_run

from workbench.errors import RunError
from workbench.evaluation.projection import Vectors
from workbench.run import RunWriter
from workbench.views.playground import answer, load_encoder


def test_a_new_query_is_answered_from_the_stored_vectors(tmp_path: Path) -> None:
    vectors = Vectors(("q",), ("d0", "d1", "d2"), np.zeros((1, 2)), np.array([[1.0, 0], [0.6, 0.8], [0, 1]]))
    asked: list[tuple[list[str], str]] = []

    def encode(texts: list[str], kind: str) -> Any:
        asked.append((texts, kind))
        return np.array([[3.0, 0.0, 99.0]])  # one dimension more than the stored vectors

    found = answer(made_run(tmp_path), "finetune", "after", encode, vectors, "Which boot?")
    assert asked == [(["Which boot?"], "query")]
    assert [(hit.position, hit.document_id, hit.relevant) for hit in found] == [
        (1, "d0", False),
        (2, "d1", False),
        (3, "d2", False),
    ]
    assert [hit.score for hit in found] == pytest.approx([1.0, 0.6, 0.0])
    assert found[1].document == "The boot of model 1 holds 301 litres."


def test_a_base_that_is_not_kept_cannot_answer(tmp_path: Path) -> None:
    made = made_run(tmp_path)
    RunWriter(made.path).update(base={"model": "scratch:small"})
    with pytest.raises(RunError) as caught:
        load_encoder(made, "before")
    assert str(caught.value) == (
        f"the base 'scratch:small' of run {made.name!r} was made from its training rows and is not kept."
    )
