"""A run -> the README.md of its new model, made by the library's own card class, with our evaluation and intervals.

The library writes what it always writes (front matter with `model-index`, architecture, usage, hyperparameters, log).
Two sections are ours and stand before its training details: what was measured and how sure one may be, and how this
model and its card differ from the original.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RunError
from workbench.report.markdown import escaped
from workbench.report.site import write
from workbench.run import Run
from workbench.views.card_facts import field_text
from workbench.views.figures import metric_name
from workbench.views.records import Summary, number, signed
from workbench.views.summary import summarize

if TYPE_CHECKING:
    from workbench.cards.card import Card
    from workbench.recipe.schema import LossSpec, Recipe

MARK = "\n## Training Details\n"  # the library's section that ours stand before
STATED = ("card", "file", "user", "finding", "inferred")  # origins of hyperparameters that are not defaults
EXAMPLES = 3  # documents in the usage example
DESCRIPTIONS = {
    "InformationRetrievalEvaluator": "Information Retrieval",
    "NanoBEIREvaluator": "Nano BEIR",
    "EmbeddingSimilarityEvaluator": "Semantic Similarity",
    "BinaryClassificationEvaluator": "Binary Classification",
    "TripletEvaluator": "Triplet",
    "RerankingEvaluator": "Reranking",
    "MSEEvaluator": "Knowledge Distillation",
    "TranslationEvaluator": "Translation",
    "ParaphraseMiningEvaluator": "Paraphrase Mining",
    "LabelAccuracyEvaluator": "Label Accuracy",
}


def model_card(run: Run, out: str | os.PathLike[str] | None = None) -> Path:
    """Write the model card of the model that `run` trained to `out`, or to README.md in its model folder; gives it.

    Raises RunError where the run kept no model, BaseError where that cannot be loaded.
    """
    return write(run.file("model") / "README.md" if out is None else Path(out), card_text(run))


def card_text(run: Run) -> str:
    """The model card as text."""
    from huggingface_hub import ModelCard

    from workbench.models.base import load_folder

    folder = run.file("model")
    if not (folder / "modules.json").is_file():
        raise RunError(f"expected a trained model in run {run.name!r}, found none; its status is {run.status!r}.")
    model = load_folder(folder, run.name, device="cpu")
    data = _card_data(run, run.recipe(), run.card())
    data.register_model(model)
    text = str(ModelCard.from_template(card_data=data, template_path=data.template_path, hf_emoji="🤗").content)
    summary = summarize(run)
    ours = "\n".join([*_measured(summary), "", *_differences(run, summary), ""])
    head, mark, rest = text.partition(MARK)
    return f"{head}\n{ours}{mark}{rest}" if mark else f"{text}\n{ours}"


# --- what the library's class is told --------------------------------------------------------------------------------


def _card_data(run: Run, recipe: Recipe, card: Card | None) -> Any:
    """The library's card data, filled from the run folder; nothing is asked of the Hub."""
    from sentence_transformers import SentenceTransformerModelCardData

    record = run.record
    base, rows = record.get("base") or {}, (record.get("data") or {}).get("rows") or {}
    own = not base.get("stand_in")
    data = SentenceTransformerModelCardData(
        language=list(card.languages) if card else [],
        license=card.license if card else None,
        model_name=f"{recipe.name}, {recipe.variant}",
        train_datasets=[_dataset(recipe, record, rows.get("train"))],
        local_files_only=True,
        generate_widget_examples=False,
    )
    data.set_losses([])
    losses = list(_losses(recipe.loss))
    size = [f"dataset_size:{rows['train']}"] if rows.get("train") else []
    data.add_tags(["generated_from_trainer", *size, *(f"loss:{loss}" for loss in losses)])
    data.first_save = False  # the base is what the run says it is
    data.base_model = recipe.base.model if own else None
    training = recipe.training.model_dump()
    data.all_hyperparameters = {name: _plain(value) for name, value in training.items()}
    data.non_default_hyperparameters = {
        name: value
        for name, value in data.all_hyperparameters.items()
        if (origin := recipe.provenance.get(f"training.{name}")) is not None and origin.source in STATED
    }
    data.training_logs = _log(run, recipe)
    data.best_model_step = (record.get("best") or {}).get("step")
    versions = {name.replace("-", "_"): version for name, version in (record.get("versions") or {}).items()}
    data.version = {name: versions.get(name, "not recorded") for name in data.version}
    _add_evaluations(data, run)
    return data


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _dataset(recipe: Recipe, record: dict[str, Any], size: int | None) -> dict[str, Any]:
    outer = recipe.loss
    loss = {"fullname": f"sentence_transformers.sentence_transformer.losses.{outer.name}"}
    said = outer.model_dump(exclude={"inner"})["parameters"]
    if outer.inner is not None:
        said = said | {"loss": outer.inner.name, "parameters": outer.inner.parameters}
    if said:
        lines = "\n".join(f"    {name}: {field_text(value)}" for name, value in said.items())
        loss["config_code"] = f"  ```yaml\n{lines}\n  ```"
    name = escaped((record.get("data") or {}).get("source") or recipe.data.train.location or "unknown", 120)
    columns = [f"<code>{escaped(column, 60)}</code>" for column in recipe.data.columns] or ["unknown"]
    return {"name": name, "size": size, "columns": columns, "loss": loss}


def _losses(loss: LossSpec) -> Iterator[str]:
    yield loss.name
    if loss.inner is not None:
        yield from _losses(loss.inner)


def _log(run: Run, recipe: Recipe) -> list[dict[str, float]]:
    """The log as the trainer would have printed it: every `logging_steps`, and wherever something was validated."""
    every = max(int(recipe.training.logging_steps), 1)
    found = []
    for row in run.log():
        values = {"Epoch": round(row["epoch"], 4)} if row.get("epoch") is not None else {}
        values["Step"] = row["step"]
        if row.get("loss") is not None and row["step"] % every == 0:
            values["Training Loss"] = round(row["loss"], 4)
        if row.get("eval_loss") is not None:
            values["Validation Loss"] = round(row["eval_loss"], 4)
        if len(values) > 2:
            found.append(values)
    return found


class _Measured:
    """An evaluation of ours, as the library's card class asks for one: its class, name, main metric, settings."""

    def __init__(self, kind: str, name: str, main: str, settings: dict[str, Any]) -> None:
        self.description = DESCRIPTIONS.get(kind, kind)
        self.name, self.primary_metric = name, main
        self._settings = settings

    def get_config_dict(self) -> dict[str, Any]:
        return self._settings


def _add_evaluations(data: Any, run: Run) -> None:
    """Every evaluation after training; the card names the library's evaluator whose definitions were followed."""
    main = run.recipe().evaluation.main_metric
    for name, moments in run.evaluations().items():
        if "after" not in moments:
            continue
        settings = run.settings(name, "after")
        kind = str(settings.get("kind") or "InformationRetrievalEvaluator")
        said = {key: settings[key] for key in ("truncate_dim", "queries", "documents", "items") if settings.get(key)}
        where = {"__module__": "sentence_transformers.sentence_transformer.evaluation"}
        evaluator = type(kind, (_Measured,), where)(kind, name, main, said)
        data.eval_results_dict[evaluator] = run.metrics(name, "after")
        if kind in ("InformationRetrievalEvaluator", "NanoBEIREvaluator"):
            data.ir_model = True
            data.usage_examples = data.usage_examples or _examples(run, name)


def _examples(run: Run, name: str) -> list[str] | None:
    """A query and some documents for the usage example, on one line each and without what would end a code block."""
    ranked = run.hits(name, "after")
    if not len(ranked):
        return None
    query = run.per_query(name, "after").sort_values("query_id", kind="stable").iloc[0]
    mine = ranked[ranked["query_id"] == query["query_id"]].sort_values("position", kind="stable").head(EXAMPLES)
    texts = [str(query["query"]), *map(str, mine["document"])]
    return [" ".join(text.replace("`", "'").split())[:200] for text in texts]


# --- our sections ----------------------------------------------------------------------------------------------------


def _measured(summary: Summary) -> list[str]:
    """What was measured, with intervals."""
    queries = summary.queries
    size = f" {queries.measured:,} {queries.unit}" if queries.measured else ""
    lines = [
        "## Evaluation by Card Workbench",
        "",
        f"Measured on{size or ' the held-out rows'} of the evaluation `{queries.evaluation or 'unknown'}`; intervals "
        f"are 95 % bootstrap intervals over the {queries.unit}.",
        "",
        "| Metric | Base model | This model | 95 % interval | Change | 95 % interval |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in summary.metrics:
        if row.after is None:
            continue
        name = escaped(metric_name(row.metric), 60)
        cells = (
            f"**{name}**" if row.metric == summary.main_metric else name,
            number(row.before),
            number(row.after),
            _between(row.low, row.high),
            signed(row.difference),
            _between(row.difference_low, row.difference_high),
        )
        lines.append(f"| {' | '.join(cells)} |")
    if summary.stand_ins:
        lines += ["", "> **A stand-in was used, so this model is no reproduction.**", ">"]
        lines += [f"> - {escaped(sentence)}" for sentence in summary.stand_ins]
    return lines


def _between(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{number(low)} to {number(high)}"


def _differences(run: Run, summary: Summary) -> list[str]:
    """How this model and this card differ from the original."""
    card = run.card()
    lines = ["## How this card differs from the original", ""]
    if card is None:
        return [*lines, "The model was trained from a recipe; there is no original card."]
    lines += [
        f"The original is the card of {escaped(card.title or card.name)} (SHA-256 `{card.sha256[:16]}…`). This model "
        f"was trained again from what that card says, {escaped(summary.variant)}, by Card Workbench.",
        "",
        f"**Verdict on the original's numbers: {escaped(summary.verdict.word)}.** {escaped(summary.verdict.meaning)}",
        "",
        *(f"- {escaped(reason)}" for reason in summary.verdict.reasons),
    ]
    stated = [row for row in summary.metrics if row.card is not None]
    if stated:
        lines += ["", "| Metric | The original card | This model (95 % interval) |", "| --- | ---: | ---: |"]
        for row in stated:
            ours = "–" if row.after is None else f"{number(row.after)} ({_between(row.low, row.high)})"
            lines.append(f"| {escaped(metric_name(row.metric), 60)} | {number(row.card)} | {ours} |")
    return [*lines, "", *_changed(run, card), "", *_found(summary)]


def _changed(run: Run, card: Card) -> list[str]:
    """The fields of the recipe that are not as the original card has them, and why."""
    from workbench.errors import RecipeError
    from workbench.recipe.from_card import recipe as read_off
    from workbench.recipe.schema import difference

    try:
        written, trained = read_off(card), run.recipe()
    except RecipeError as error:
        return ["### Recipe", "", f"What the original describes cannot be trained as it stands: {escaped(error)}"]
    rows = difference(written, trained)
    if not rows:
        return ["### Recipe", "", "Trained as the original card describes it."]
    lines = ["### Recipe", "", "| Field | The original | This model | Why |", "| --- | --- | --- | --- |"]
    why = {"finding": "a finding on the original: ", "user": "chosen for this run", "card": "the card: "}
    for path, theirs, ours in rows:
        origin = trained.provenance.get(path)
        note = escaped(origin.note, 120) if origin is not None and origin.source != "user" else ""
        reason = (why.get(origin.source, "") + note) if origin is not None else ""
        cells = (
            f"`{path}`",
            escaped(field_text(theirs), 80),
            escaped(field_text(ours), 80),
            reason.rstrip(": ") or "–",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _found(summary: Summary) -> list[str]:
    """What the audit found on the original card."""
    if not summary.findings:
        return []
    lines = ["### What the audit found on the original card", ""]
    for finding, proof in summary.findings:
        places = ", ".join(str(line) for line, _ in proof)
        where = f" ({'line' if len(proof) == 1 else 'lines'} {places})" if places else ""
        lines.append(f"- **{finding.severity}**, `{finding.code}`: {escaped(finding.message)}{where}")
    return lines
