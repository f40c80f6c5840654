"""Clusters of documents and density around each, by the full vectors: colors for a map that do not depend on the map.

HDBSCAN: Campello, Moulavi and Sander (2013), https://doi.org/10.1007/978-3-642-37456-2_14. Clusters are named by the
words that are frequent in them and rare in others (TF-IDF).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.views.words import words

if TYPE_CHECKING:
    from workbench.evaluation.projection import Vectors

SAMPLE = 3000  # documents that are clustered; others join their nearest one's, as HDBSCAN takes quadratic time
LEAST = 5  # documents of a cluster; of many documents a hundredth
NEAREST = 10
TERMS = 3  # in the name of a cluster
TEXTS = 300  # of a cluster that its name comes from


def clusters(vectors: Vectors, texts: Mapping[str, str]) -> dict[str, str]:
    """Document id -> name of its cluster; not of documents between clusters."""
    import numpy as np
    from sklearn.cluster import HDBSCAN

    from workbench.evaluation.topk import top_k

    ids, array = vectors.document_ids, _unit(vectors.documents)
    some = np.unique(np.linspace(0, len(ids) - 1, min(SAMPLE, len(ids))).astype(int))
    if len(some) < 2 * LEAST:
        return {}
    # Euclidean distances of unit vectors have the order of their cosines.
    model = HDBSCAN(min_cluster_size=max(LEAST, len(some) // 100), algorithm="brute", copy=True)
    labels = model.fit_predict(array[some])
    nearest = top_k(array, array[some], 1).positions[:, 0]
    of = {key: int(label) for key, label in zip(ids, labels[nearest], strict=True) if label >= 0}
    members: dict[int, list[str]] = {}
    for key, label in of.items():
        members.setdefault(label, []).append(texts.get(key, ""))
    names = dict(zip(members, _names(list(members.values())), strict=True))
    return {key: names[label] for key, label in of.items()}


def _names(members: Sequence[Sequence[str]]) -> list[str]:
    """A name for each cluster of texts, no name twice."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    def analyze(texts: Sequence[str]) -> list[str]:
        return [word for text in texts[:TEXTS] for word in words(text, short=False) if not word.isdigit()]

    numbered = [f"cluster {number}" for number in range(1, len(members) + 1)]
    if not any(analyze(texts) for texts in members):
        return numbered
    model = TfidfVectorizer(analyzer=analyze, sublinear_tf=True)
    weights, terms = model.fit_transform(members).toarray(), model.get_feature_names_out()
    weights *= (weights > 0).mean(axis=0) <= 0.5  # a word of most clusters names none
    found: list[str] = []
    for row, number in zip(weights, numbered, strict=True):
        best = [str(terms[place]) for place in (-row).argsort(kind="stable")[:TERMS] if row[place] > 0]
        name = ", ".join(best) or number
        found.append(name if name not in found else f"{name} ({number})")
    return found


def density(vectors: Vectors) -> dict[tuple[str, str], float]:
    """(kind, id) of each text -> mean cosine of its nearest documents, without itself."""
    from workbench.evaluation.topk import top_k

    found: dict[tuple[str, str], float] = {}
    documents = _unit(vectors.documents)
    for kind, ids, array in (
        ("query", vectors.query_ids, _unit(vectors.queries)),
        ("document", vectors.document_ids, documents),
    ):
        own = int(kind == "document")
        means = top_k(array, documents, NEAREST + own).scores[:, own:].mean(axis=1)
        found |= {(kind, key): float(mean) for key, mean in zip(ids, means, strict=True)}
    return found


def _unit(array: Any) -> Any:
    import numpy as np

    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
