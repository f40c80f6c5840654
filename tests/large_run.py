"""Runs with vectors and maps, and the folder of 50 runs that the dashboard is timed on. Nothing here is measured."""

from __future__ import annotations

import math
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
from synthetic_run import made_run

from workbench.evaluation.projection import STAGES, project, save_vectors
from workbench.run import Run, RunWriter, write_json, write_parquet

TOPICS = ("boot", "engine", "tyres", "seats", "lights", "brakes", "roof", "battery", "doors", "wipers", "radio", "keys")


def add_vectors(run: Run, evaluation: str = "finetune", *, dim: int = 64, seed: int = 3) -> None:
    """Vectors of every query and document: documents in a cluster for each topic, queries nearer to theirs after."""
    chance = np.random.default_rng(seed)
    queries = run.per_query(evaluation, "before")
    documents = run.documents(evaluation)
    number = {str(key): place for place, key in enumerate(documents["document_id"])}
    topics = 0.55 * chance.normal(size=(len(TOPICS), dim))
    of = np.arange(len(documents)) % len(TOPICS)
    for stage, near, spread in zip(STAGES, (0.9, 0.35), (0.45, 0.3), strict=True):
        vectors = topics[of] + spread * chance.normal(size=(len(documents), dim))
        answers = [number[str(relevant[0])] for relevant in queries["relevant"]]
        asked = vectors[answers] + near * chance.normal(size=(len(queries), dim)) + (0.8 if stage == "before" else 0)
        made = SimpleNamespace(
            collection=SimpleNamespace(
                corpus={str(key): "" for key in documents["document_id"]},
                relevant=dict(zip(queries["query_id"], queries["relevant"], strict=True)),
                evaluated=[str(key) for key in queries["query_id"]],
                sha256="ab" * 32,
            ),
            hits=run.hits(evaluation, stage),
            query_vectors=asked.astype(np.float32),
            document_vectors=vectors.astype(np.float32),
        )
        save_vectors(run.path, evaluation, stage, cast(Any, made))
        hits = pd.read_parquet(run.path / "evaluations" / evaluation / f"{stage}-hits.parquet")
        hits["score"] = cosines(made, asked, vectors, number, hits)
        write_parquet(run.path / "evaluations" / evaluation / f"{stage}-hits.parquet", hits)
        means = {"metrics": run.metrics(evaluation, stage)}
        settings = {"collection_sha256": "ab" * 32, "similarity": "cosine", "documents": len(documents)}
        write_json(run.path / "evaluations" / evaluation / f"{stage}.json", {**means, "settings": settings})


def cosines(made: Any, queries: Any, documents: Any, number: dict[str, int], hits: pd.DataFrame) -> Any:
    """What the vectors say of each stored hit; a run whose vectors say otherwise is refused. Places stay as made."""
    places = {key: place for place, key in enumerate(made.collection.evaluated)}
    one = queries[[places[str(key)] for key in hits["query_id"]]]
    other = documents[[number[str(key)] for key in hits["document_id"]]]
    return (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))


def mapped_run(root: Path, *, queries: int = 180, topics: bool = True, **options: Any) -> Run:
    """`made_run` with vectors and a stored map by PCA; `topics` puts the clusters into its texts."""
    run = made_run(root, queries=queries, **options)
    folder = run.path / "evaluations" / "finetune"
    for file, column in (("queries", "query"), ("documents", "document")) if topics else ():
        table = pd.read_parquet(folder / f"{file}.parquet")
        table[column] = [
            text.replace("boot", TOPICS[number % len(TOPICS)]) for number, text in enumerate(table[column])
        ]
        table.to_parquet(folder / f"{file}.parquet", index=False)
    add_vectors(run)
    project(run, "finetune", "pca")
    return run


def long_log(run: Run, rows: int) -> None:
    """Replace the log by one of `rows` rows, a row a step, with two spikes and the parts of a loss."""
    chance = random.Random(11)
    (run.path / "log.jsonl").unlink(missing_ok=True)
    found: list[dict[str, Any]] = []
    for step in range(1, rows + 1):
        warm = min(step / (rows / 10), 1.0)
        loss = 1.6 * math.exp(-4 * step / rows) + 0.06 + chance.random() * 0.2 + 1.5 * (step in (rows // 3, rows // 2))
        row: dict[str, Any] = {"step": step, "epoch": 3 * step / rows, "time": step * 0.3, "loss": loss}
        row |= {"learning_rate": 2e-5 * warm * (1 - step / rows), "grad_norm": 1 + chance.random() * loss}
        row |= {
            "rows_per_second": 60 + 8 * chance.random(),
            "components": {"dim_512": loss * 0.6, "dim_256": loss * 0.4},
        }
        found.append(
            row | ({"eval_loss": 0.9 * math.exp(-4 * step / rows) + 0.1} if step % (rows // 12 or 1) == 0 else {})
        )
    RunWriter(run.path).log(*found)
    for step in range(rows // 6, rows + 1, rows // 6 or 1):
        (run.path / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True, exist_ok=True)
    RunWriter(run.path).update(
        progress={"step": rows, "steps": rows, "epoch": 3.0},
        best={"step": rows // 6 * 5, "metric": "cosine_ndcg@10", "value": 0.7},
    )


def large_folder(root: Path, *, runs: int = 50, log_rows: int = 12_000, queries: int = 5_000) -> Run:
    """`runs` runs, one of them with `log_rows` log rows, `queries` queries, and a map of four times as many points.

    Gives that one; the others are small ones of some hundred queries.
    """
    large = mapped_run(root, queries=queries)
    long_log(large, log_rows)
    small = made_run(root, queries=180)
    verdicts = ("not comparable", "differs", "reproduced")
    for number in range(runs - 2):
        path = root / f"porsche-mxbai-20261119-{number:06}-c0ffee"
        shutil.copytree(small.path, path)
        day = f"2026-11-{1 + number % 19:02}T{number % 24:02}:00:00Z"
        RunWriter(path).update(created=day, variant="corrected" if number % 2 else "as written")
        found = Run(path).comparison() or {}
        write_json(path / "comparison.json", {**found, "verdict": verdicts[number % 3]})
    return large
