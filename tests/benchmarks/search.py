"""How long search and metrics take, beside the bare product and the library.

    python tests/benchmarks/search.py                          1,000 queries x 100,000 documents x 384 numbers
    python tests/benchmarks/search.py --documents 1000000      ours alone, and the peak of this process's memory

Everything is measured in one process, side by side: in each of `--rounds` rounds every candidate runs once, and the
table shows medians. Threads are those of torch (OMP_NUM_THREADS sets them).
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from workbench.data.collection import Collection
from workbench.evaluation.retrieval import ranking_table
from workbench.evaluation.topk import top_k

K = 100
LIBRARY_AT_MOST = 200_000  # documents: the library sorts in Python, and the whole product takes 4 GB for a million


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {arguments.rounds}")
    search(arguments.queries, arguments.documents, arguments.dimensions, arguments.rounds)
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def medians(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each candidate; every one ran once before."""
    for candidate in candidates.values():
        candidate()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            started = time.perf_counter()
            candidate()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


# --- search --------------------------------------------------------------------------------------------------------


def search(queries: int, documents: int, dimensions: int, rounds: int) -> None:
    """Ranking and metrics from given vectors."""
    rng = np.random.default_rng(1)
    asked = rng.standard_normal((queries, dimensions), dtype=np.float32)
    known = np.empty((documents, dimensions), dtype=np.float32)
    for start in range(0, documents, 10_000):  # float64 numbers of the whole would be the peak of memory
        part = known[start : start + 10_000]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
    ids = [f"d{number}" for number in range(documents)]
    relevant = {
        f"q{row}": {ids[place]: 1.0 for place in rng.choice(documents, rng.integers(1, 6), replace=False)}
        for row in range(queries)
    }
    for row in range(queries):  # a relevant document that is near
        known[int(next(iter(relevant[f"q{row}"]))[1:])] += 0.25 * asked[row]
    collection = Collection("vectors", {f"q{row}": "?" for row in range(queries)}, dict.fromkeys(ids, "!"), relevant)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    left, right = torch.from_numpy(asked), torch.from_numpy(known)

    def measured() -> Any:
        return ranking_table(collection, ids, top_k(asked, known, K, ids=ids))

    candidates: dict[str, Callable[[], Any]] = {
        "ours: ranking": lambda: top_k(asked, known, K, ids=ids),
        "ours: ranking and all metrics": measured,
    }
    if documents <= LIBRARY_AT_MOST:
        evaluator = library(collection, asked)
        candidates["bare product"] = lambda: left @ right.T
        candidates["library: ranking and all metrics"] = lambda: evaluator.compute_all_metrics(
            None, corpus_embeddings=right
        )
    else:
        candidates["bare product, in blocks"] = lambda: [
            float((left @ part.T)[0, 0]) for part in torch.split(right, 4096)
        ]
    print(f"{queries:,} queries x {documents:,} documents x {dimensions} numbers, cosine, k = {K}")
    print(f"memory before the first search: {before:.2f} GiB, of which vectors {known.nbytes / 2**30:.2f} GiB")
    found = medians(candidates, rounds)
    product = next(value for name, value in found.items() if name.startswith("bare"))
    for name, seconds in found.items():
        print(f"  {name:34}{seconds:8.3f} s {seconds / product:8.2f} x product")
    if documents <= LIBRARY_AT_MOST:
        compared(measured()[1], evaluator, right, top_k(asked, known, K, ids=ids), left)
        ratio = found["library: ranking and all metrics"] / found["ours: ranking and all metrics"]
        print(f"  library / ours: {ratio:.1f}")


def library(collection: Collection, asked: np.ndarray) -> Any:
    """The library's evaluator, whose model is a table of vectors."""
    from sentence_transformers import SimilarityFunction
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    class Given(InformationRetrievalEvaluator):
        def embed_inputs(self, *_: Any, **__: Any) -> torch.Tensor:
            return torch.from_numpy(asked)

    relevant = {query: set(documents) for query, documents in collection.relevant.items()}
    cosine = SimilarityFunction.to_similarity_fn("cosine")
    return Given(dict(collection.queries), dict(collection.corpus), relevant, score_functions={"cosine": cosine})


def compared(values: dict[str, Any], evaluator: Any, right: torch.Tensor, found: Any, left: torch.Tensor) -> None:
    """Say whether both measured the same."""
    from sentence_transformers.util import cos_sim

    theirs = evaluator.compute_all_metrics(None, corpus_embeddings=right)["cosine"]
    flat = {name.replace("@k", f"@{k}"): value for name, each in theirs.items() for k, value in each.items()}
    apart = max(abs(flat[name] - float(value.mean())) for name, value in values.items())
    scores = cos_sim(left, right).gather(1, torch.from_numpy(found.positions)).numpy()
    same = "the same bits" if np.array_equal(scores, found.scores) else f"{np.abs(scores - found.scores).max()} apart"
    print(f"  metrics at most {apart:.1e} from the library's (nDCG@10 {flat['ndcg@10']:.4f}); scores: {same}")


def peak(step: Callable[[], None]) -> int:
    """Most bytes that torch holds at once for `step`, from its profiler's record of every allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    results = recorded.profiler.kineto_results  # type: ignore[union-attr]
    events = sorted((each for each in results.events() if each.name() == "[memory]"), key=lambda each: each.start_ns())
    held = np.cumsum([each.nbytes() for each in events])
    return int(held.max())


if __name__ == "__main__":
    main()
