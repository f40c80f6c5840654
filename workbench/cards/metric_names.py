"""What people read for a metric: "nDCG@10" for the library's "cosine_ndcg@10", in terminal, report and dashboard alike.

Files and JSON have the library's names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LIBRARY_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
SIMILARITIES = (*LIBRARY_SIMILARITIES, "energy")
"""Named as in sentence-transformers, "energy" is ours; distances are negated, so that higher is nearer. The name of a
search metric begins with one."""

METRIC_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP", "ap": "AP"}


def metric_name(metric: str) -> str:
    """The usual name of a metric; a ranking metric loses its similarity.

    >>> metric_name("cosine_ndcg@10"), metric_name("dot_accuracy@1"), metric_name("spearman_cosine")
    ('nDCG@10', 'Accuracy@1', 'Spearman (cosine)')
    """
    words = metric.split("_")
    place = 0 if words[0] in SIMILARITIES else -1
    similarity = words.pop(place) if len(words) > 1 and words[place] in SIMILARITIES else ""
    name, at, depth = "_".join(words).partition("@")
    if not at and not similarity:
        return metric
    shown = METRIC_NAMES.get(name, name.replace("_", " ").capitalize())
    return shown + at + depth if at else f"{shown} ({similarity})"


def metric_names(metrics: Iterable[str]) -> dict[str, str]:
    """Metric -> its `metric_name`, or itself if two of them would have the same name.

    >>> metric_names(["cosine_mrr@10", "cosine_map@100"])
    {'cosine_mrr@10': 'MRR@10', 'cosine_map@100': 'MAP@100'}
    >>> metric_names(["cosine_mrr@10", "dot_mrr@10"])
    {'cosine_mrr@10': 'cosine_mrr@10', 'dot_mrr@10': 'dot_mrr@10'}
    """
    names = {metric: metric_name(metric) for metric in metrics}
    return names if len(set(names.values())) == len(names) else {metric: metric for metric in names}


def name_metrics(sentence: str, metrics: Iterable[str]) -> str:
    """`sentence` with the library's names of `metrics` replaced by their `metric_names`.

    >>> name_metrics("cosine_mrr@10 differs.", ["cosine_mrr@1", "cosine_mrr@10"])
    'MRR@10 differs.'
    """
    return replace_names(sentence, metric_names(metrics))


def replace_names(sentence: str, names: Mapping[str, str]) -> str:
    """`sentence` with each of `names` replaced, the longest first, because one may begin another.

    >>> replace_names("run-12 and run-1", {"run-1": "A", "run-12": "B"})
    'B and A'
    """
    for name in sorted(names, key=len, reverse=True):
        sentence = sentence.replace(name, names[name])
    return sentence
