"""A made-up run folder in the layout that workbench/run.py documents, for tests of what reads runs."""

import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.cards.card import Card, Dataset, LogRow, Module, Stated
from workbench.cards.card import Evaluation as CardEvaluation
from workbench.evaluation.comparison import Comparison, MetricRow
from workbench.evaluation.examples import evaluation_from_table, save_examples
from workbench.evaluation.replay import Number, Replay
from workbench.recipe.schema import Base, Data, EvaluationPlan, LossSpec, Origin, Recipe, Source, Split, Training
from workbench.recipe.yaml_io import save_recipe
from workbench.run import Run, create, write_json, write_parquet

STAND_IN = "bundled all-MiniLM-L6-v2 in place of mixedbread-ai/mxbai-embed-large-v1: the hub could not be reached"
ADVISED = f"{STAND_IN}; name the card's own with --base FOLDER --base-is-the-cards."
HOSTILE = (
    "</script><script>window.hostile=1</script><img src=x onerror=window.hostile=1> <b>bold</b> $x^2$ %{x} "
    "\u2028 \u202eevil"
)
KOREAN = "주택임대차보호법은 언제 적용됩니까?"
SINHALA = "ශ්‍රී ලංකාවේ අගනුවර කුමක්ද?"
METRICS = (
    "cosine_accuracy@1",
    "cosine_accuracy@10",
    "cosine_precision@1",
    "cosine_recall@10",
    "cosine_ndcg@10",
    "cosine_mrr@10",
    "cosine_map@100",
)


def made_card(name: str = "porsche-mxbai") -> Card:
    log = (
        (0.5556, 100, 0.1834, None),
        (1.0, 180, None, 0.0374),
        (1.1111, 200, 0.0955, None),
        (1.6667, 300, 0.042, None),
        (2.0, 360, None, 0.0217),
        (2.2222, 400, 0.0568, None),
        (2.7778, 500, 0.0267, None),
        (3.0, 540, None, 0.0209),
    )
    text = tuple(f"line {number} of the card" for number in range(1, 41))
    return Card(
        name=name,
        kind="sentence-transformer",
        title="SentenceTransformer based on mixedbread-ai/mxbai-embed-large-v1",
        library_version="3.3.1",
        base_model=Stated("mixedbread-ai/mxbai-embed-large-v1", 24),
        modules=(Module(0, "Transformer", {"max_seq_length": 512}), Module(1, "Pooling", {})),
        datasets=(Dataset("train", None, size=1797, columns=("anchor", "positive")),),
        training_log=tuple(
            LogRow(epoch, step, loss, evaluated, {}, saved=step == 540) for epoch, step, loss, evaluated in log
        ),
        evaluations=(
            CardEvaluation(
                "InformationRetrievalEvaluator",
                "Information Retrieval",
                ("finetune",),
                {},
                {"cosine_ndcg@10": 0.7172, "cosine_accuracy@1": 0.5667},
                lines=(30, 40),
            ),
        ),
        lines=text,
        sha256="ab" * 32,
    )


def made_recipe(name: str = "porsche-mxbai") -> Recipe:
    return Recipe(
        name=name,
        base=Base(model="mixedbread-ai/mxbai-embed-large-v1", pooling="cls", max_seq_length=512),
        data=Data(train=Source(location="sample:porsche", rows=1797), split=Split(), columns=("anchor", "positive")),
        loss=LossSpec(
            name="MatryoshkaLoss",
            parameters={"matryoshka_dims": [512, 256]},
            inner=LossSpec(name="MultipleNegativesRankingLoss", parameters={"scale": 20.0}),
        ),
        training=Training(learning_rate=2e-5, warmup_ratio=0.1, lr_scheduler_type="cosine", logging_steps=10),
        evaluation=EvaluationPlan(name="finetune", truncate_dim=512),
        provenance={
            "base.model": Origin(source="card", lines=(24,)),
            "base.pooling": Origin(source="card", lines=(29,)),
            "training.learning_rate": Origin(source="card", lines=(31,)),
            "training.weight_decay": Origin(source="library", note="sentence-transformers 3.3.1"),
            "training.seed": Origin(source="user"),
            "loss.parameters.scale": Origin(source="inferred", note="the library's default, as the citation names it"),
        },
        notes=("`bf16` was true on the card and is off here: this machine has no bfloat16.",),
    )


def _ranking(chance: random.Random, rank: int | None, number: int, documents: int) -> list[int]:
    """Ten documents for query `number`, its own one at `rank` where that is in the ten."""
    others = [document for document in chance.sample(range(documents), 12) if document != number][:10]
    if rank is not None and rank <= 10:
        others.insert(rank - 1, number)
    return others[:10]


def _stage(run: Path, name: str, stage: str, ranks: list[int | None], chance: random.Random) -> dict[str, float]:
    folder = run / "evaluations" / name
    table = pd.DataFrame(
        {
            "query_id": [f"q{number}" for number in range(len(ranks))],
            "rank": pd.array(ranks, dtype="Int64"),
            "ranks": [[] if rank is None else [rank] for rank in ranks],
            "ndcg@10": [1 / math.log2(rank + 1) if rank and rank <= 10 else 0.0 for rank in ranks],
            "mrr@10": [1 / rank if rank and rank <= 10 else 0.0 for rank in ranks],
        }
    )
    hits = [
        {
            "query_id": f"q{number}",
            "position": position,
            "document_id": f"d{document}",
            "score": 0.9 - position / 40,
            "relevant": document == number,
        }
        for number, rank in enumerate(ranks)
        for position, document in enumerate(_ranking(chance, rank, number, len(ranks)), start=1)
    ]
    write_parquet(folder / f"{stage}.parquet", table)
    write_parquet(folder / f"{stage}-hits.parquet", pd.DataFrame(hits))
    found = {metric: float(table["ndcg@10"].mean()) * (0.9 + 0.02 * place) for place, metric in enumerate(METRICS)}
    found["cosine_ndcg@10"] = float(table["ndcg@10"].mean())
    write_json(folder / f"{stage}.json", {"metrics": found, "depth": 100})
    return found


def made_replay(*, exact: bool) -> Replay:
    """Three numbers of the card; the last one is ours, too, if `exact`."""
    numbers = (
        Number("Training Loss", "loss", "training", 100, 0.1834, 0.18342, 310),
        Number("Training Loss", "loss", "training", 200, 0.0955, 0.09549, 312),
        Number("finetune cosine_ndcg@10", "metric", "after", 540, 0.7172, 0.7172 if exact else 0.7023, 33),
    )
    if exact:
        return Replay(
            "replayed exactly", "reproduced exactly", "Every number is ours: 2 losses, 1 metric.", numbers, 540
        )
    return Replay("replayed for 200 steps", None, "Every number agrees up to step 200.", numbers, 200)


def made_comparison(
    before: dict[str, float],
    after: dict[str, float],
    verdict: str,
    seeds: Sequence[int] = (42,),
    card: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Seed k is (k - the mean of k) / 100 off the mean, which is `after`; the interval of card - ours is ±0.012."""
    judged, middle = verdict != "not comparable", (len(seeds) - 1) / 2
    printed = card or {metric: 0.7172 + place / 100 for place, metric in enumerate(METRICS[:-1])}
    rows = []
    for metric in METRICS:
        row = MetricRow(
            metric,
            verdict=verdict if metric in printed else "not comparable",  # type: ignore[arg-type]
            reason=ADVISED if not judged else "" if metric in printed else "The card does not report this metric.",
            card=printed.get(metric),
            card_line=300 + METRICS.index(metric) if metric in printed else None,
            before=before[metric],
            after=after[metric],
            low=after[metric] - 0.045,
            high=after[metric] + 0.04,
            difference=after[metric] - before[metric],
            difference_low=after[metric] - before[metric] - 0.03,
            difference_high=after[metric] - before[metric] + 0.03,
            p=0.0004,
            p_adjusted=0.0028,
            wins=100,
            ties=60,
            losses=20,
        )
        if judged:
            row = replace(
                row,
                values=tuple(after[metric] + (place - middle) / 100 for place in range(len(seeds))),
                mean=after[metric],
                deviation=0.0158,
            )
        if judged and verdict != "reproduced exactly" and row.card is not None:
            off = row.card - after[metric]
            row = replace(row, card_difference=off, card_low=off - 0.012, card_high=off + 0.012, margin=0.02)
            row = replace(row, detectable=abs(off) + 0.01)
        rows.append(row)
    return Comparison(
        kind="card",
        names=("card 'porsche-mxbai'", "run"),
        verdict=verdict,  # type: ignore[arg-type]
        reasons=() if judged else (ADVISED, "The run set training.seed to 42; the card says 7."),
        notes=("* main metric. Intervals: 95%, BCa bootstrap over 180 queries (10,000 resamples, seed 0).",),
        rows=tuple(rows),
        main_metric="cosine_ndcg@10",
        evaluation="finetune",
        queries=180,
        sentence="6 of 6 metrics; cosine_ndcg@10: the made-up reason." if judged else "",
        seeds=tuple(seeds),
        same_examples=judged,
        effect_ratio=0.97 if judged else None,
        statements=("The user states that rows.json holds the card's evaluation examples.",) if judged else (),
        replay=made_replay(exact=verdict == "reproduced exactly") if judged else None,
    ).to_dict()


def made_run(
    root: Path,
    *,
    queries: int = 180,
    hostile: bool = False,
    stand_in: bool = True,
    card: bool = True,
    verdict: str | None = "not comparable",
    status: str = "finished",
    steps: int = 54,
    seeds: Sequence[int] = (42,),
    near: float | None = None,
) -> Run:
    """A finished run of `queries` queries and `steps` log rows; hostile texts in every place that data reaches.

    `near`: the card's numbers are so much above ours; by default they are anything.
    """
    chance = random.Random(7)
    name = "porsche-mxbai"
    the_card, recipe = made_card(name), made_recipe(name)

    def write(run: Run) -> None:
        save_recipe(recipe, run.file("recipe"))
        if card:
            from workbench.cards.read import card_to_dict

            write_json(run.file("card"), card_to_dict(the_card))

    writer = create(
        root,
        card_name=name,
        recipe_sha256="c0ffee" * 10 + "abcd",
        write=write,
        record={
            "card": name,
            "variant": "as written",
            "recipe_sha256": "c0ffee" * 10 + "abcd",
            "base": {
                "asked": recipe.base.model,
                "model": "bundled:minilm" if stand_in else recipe.base.model,
                "sha256": "53aa" * 16,
                "stand_in": stand_in,
                "note": STAND_IN if stand_in else "",
            },
            "data": {
                "source": HOSTILE if hostile else "sample:porsche",
                "sha256": "beef" * 16,
                "stand_in": False,
                "note": "",
                "rows": {"train": 1437, "validation": 180, "test": 180},
            },
            "checks": [{"severity": "warning", "message": "126 rows repeat a question."}],
            "device": "cpu",
            "precision": "float32",
            "versions": {"sentence-transformers": "6.0.1", "torch": "2.13.0", "python": "3.11.7"},
            "command": ["workbench", "train", "porsche-mxbai", "--set", "learning_rate=2e-5"],
            "progress": {"step": 540, "steps": 540, "epoch": 3.0},
            "peak_memory": 1_400_000_000,
            "rows_per_second": 61.4,
            "best": {"step": 360, "metric": "cosine_ndcg@10", "value": 0.7242},
        },
    )
    for place in range(1, steps + 1):
        step = place * 10
        row = {
            "step": step,
            "epoch": step / 180,
            "time": place * 7.5,
            "learning_rate": 2e-5,
            "loss": 1.6 * math.exp(-step / 160) + 0.05 + chance.random() * 0.12 + (0.5 if place == 31 else 0),
        }
        writer.log(row | ({"eval_loss": 0.9 * math.exp(-step / 200) + 0.08} if step % 180 == 0 else {}))
    before: list[int | None] = [min(int(chance.expovariate(1 / 6)) + 1, 140) for _ in range(queries)]
    after = [max(1, round((rank or 1) * chance.choice((0.2, 0.5, 0.5, 1, 1, 1, 1, 2)))) for rank in before]
    before = [None if (rank and rank > 25) or number % 40 == 3 else rank for number, rank in enumerate(before)]
    for evaluation in ("finetune",):
        folder = writer.path / "evaluations" / evaluation
        texts = [
            f"How many litres does the boot of model {number} hold with the seats up?" for number in range(queries)
        ]
        answers = [f"The boot of model {number} holds {300 + number} litres." for number in range(queries)]
        for place, text in enumerate((KOREAN, SINHALA, HOSTILE if hostile else texts[2])):
            texts[place] = text
        if hostile:
            before[2], after[2] = None, 1
            answers = [f"{answer} {HOSTILE}" for answer in answers]
        before[0], after[0], before[1], after[1] = 9, 1, 1, 8
        write_parquet(
            folder / "queries.parquet",
            pd.DataFrame(
                {
                    "query_id": [f"q{n}" for n in range(queries)],
                    "query": texts,
                    "relevant": [[f"d{n}"] for n in range(queries)],
                }
            ),
        )
        write_parquet(
            folder / "documents.parquet",
            pd.DataFrame({"document_id": [f"d{n}" for n in range(queries)], "document": answers}),
        )
        first = _stage(writer.path, evaluation, "before", before, chance)
        _stage(writer.path, evaluation, "step-360", [*after], chance)
        last = _stage(writer.path, evaluation, "after", [*after], chance)
    if verdict:
        printed = None if near is None else {metric: round(value + near, 4) for metric, value in last.items()}
        write_json(writer.path / "comparison.json", made_comparison(first, last, verdict, seeds, printed))
    writer.update(status=status, created="2026-11-20T10:00:00Z", finished="2026-11-20T10:06:45Z", seconds=405.2)
    return writer.run


def made_item_run(root: Path, *, pairs: int = 60, hostile: bool = False, noise: float = 0.15, seed: int = 7) -> Run:
    """`made_run`, but measured by the correlation of scored pairs; the model comes nearer to gold by training.

    Pair 0 (in Korean) comes right from the lowest place, pair 1 (in Sinhala) goes wrong from the highest.
    """
    run = made_run(root, queries=14, verdict=None, steps=5, hostile=hostile)
    shutil.rmtree(run.path / "evaluations")
    recipe = made_recipe()
    plan = EvaluationPlan(evaluator="EmbeddingSimilarityEvaluator", name="sts", main_metric="spearman_cosine")
    save_recipe(recipe.model_copy(update={"evaluation": plan}), run.path / "recipe.yaml")
    chance = random.Random(seed)
    gold = [1.0, 1.0, *(chance.randrange(6) / 5 for _ in range(pairs - 2))]
    texts = [KOREAN, SINHALA, *(f"The boot of model {n} holds {300 + n} litres." for n in range(2, pairs))]
    texts[2] = HOSTILE if hostile else texts[2]
    for stage, spread, first in (
        ("before", 0.6, (-1.0, 2.0)),
        ("step-360", noise, (2.0, -1.0)),
        ("after", noise, (2.0, -1.0)),
    ):
        scores = [*first, *(value + spread * chance.gauss(0, 1) for value in gold[2:])]
        table = pd.DataFrame(
            {
                "item_id": [f"i{n:03}" for n in range(pairs)],
                "sentence1": texts,
                "sentence2": [f"Model {n} carries {300 + n} litres." for n in range(pairs)],
                "gold": gold,
                "cosine": scores,
            }
        )
        statistics = {"spearman_cosine": ["spearman", "cosine"], "pearson_cosine": ["pearson", "cosine"]}
        kind = "EmbeddingSimilarityEvaluator"
        found = evaluation_from_table(
            "sts", kind, table, statistics, unit="pairs", main="spearman_cosine", truncate_dim=None
        )
        save_examples(run.path, "sts", stage, found)
    return run
