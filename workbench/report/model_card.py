"""A run -> the README.md of its new model, by the library's own card class.

The library writes the usual card (front matter with `model-index`, architecture, usage, hyperparameters, log). Two
sections before its training details are ours: the evaluation with intervals, and the differences from the original.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RunError
from workbench.report.markdown import escape, interval, lines_of, name_of, table, with_interval
from workbench.report.site import write
from workbench.run import Run
from workbench.views.card_facts import field_text
from workbench.views.figures import metric_name
from workbench.views.records import number, signed
from workbench.views.summary import Summary, summarize

if TYPE_CHECKING:
    from workbench.cards.card import Card
    from workbench.recipe.schema import Recipe

MARK = "\n## Training Details\n"  # the library's section after ours
STATED = ("card", "file", "user", "finding", "inferred")  # sources of hyperparameters that are not defaults
EXAMPLES = 3  # documents in the usage example


def model_card(run: Run, out: str | os.PathLike[str] | None = None) -> Path:
    """Write the card of the model that `run` trained to `out`, or to README.md in its model folder; return the path.

    Raises RunError if the run has no model, BaseError if it cannot be loaded.
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
    ours = "\n".join([*_measured_section(summary), "", *_differences(run, summary), ""])
    head, mark, rest = text.partition(MARK)
    return f"{head}\n{ours}{mark}{rest}" if mark else f"{text}\n{ours}"


def _card_data(run: Run, recipe: Recipe, card: Card | None) -> Any:
    """The library's card data, filled from the run folder; nothing is asked of the Hub."""
    from sentence_transformers import SentenceTransformerModelCardData

    record = run.record
    base, rows = record.get("base") or {}, (record.get("data") or {}).get("rows") or {}
    data = SentenceTransformerModelCardData(
        language=list(card.languages) if card else [],
        license=card.license if card else None,
        model_name=f"{recipe.name}, {recipe.variant}",
        train_datasets=[_dataset(recipe, record, rows.get("train"))],
        local_files_only=True,
        generate_widget_examples=False,
    )
    data.set_losses([])
    size = [f"dataset_size:{rows['train']}"] if rows.get("train") else []
    data.add_tags(["generated_from_trainer", *size, *(f"loss:{loss.name}" for loss in recipe.loss.chain())])
    data.first_save = False  # the base is what the run says it is
    data.base_model = None if base.get("stand_in") else recipe.base.model
    data.all_hyperparameters = recipe.training.model_dump(mode="json")
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


def _dataset(recipe: Recipe, record: dict[str, Any], size: int | None) -> dict[str, Any]:
    outer = recipe.loss
    loss = {"fullname": f"sentence_transformers.sentence_transformer.losses.{outer.name}"}
    settings = outer.model_dump(exclude={"inner"})["parameters"]
    if outer.inner is not None:
        settings |= {"loss": outer.inner.name, "parameters": outer.inner.parameters}
    if settings:
        lines = "\n".join(f"    {name}: {field_text(value)}" for name, value in settings.items())
        loss["config_code"] = f"  ```yaml\n{lines}\n  ```"
    name = escape((record.get("data") or {}).get("source") or recipe.data.train.location or "unknown", 120)
    columns = [f"<code>{escape(column, 60)}</code>" for column in recipe.data.columns] or ["unknown"]
    return {"name": name, "size": size, "columns": columns, "loss": loss}


def _log(run: Run, recipe: Recipe) -> list[dict[str, float]]:
    """The log as the trainer would print it: every `logging_steps`, and at every validation."""
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


def _add_evaluations(data: Any, run: Run) -> None:
    """Every evaluation after training, under the library's evaluator that defines its metrics."""
    from sentence_transformers.sentence_transformer import evaluation

    for name, stages in run.evaluations().items():
        if "after" not in stages:
            continue
        settings = run.settings(name, "after")
        kind = str(settings.get("kind") or "InformationRetrievalEvaluator")
        shown = {key: settings[key] for key in ("truncate_dim", "queries", "documents", "items") if settings.get(key)}
        evaluator = object.__new__(getattr(evaluation, kind, evaluation.SentenceEvaluator))  # its data stay here
        evaluator.name, evaluator.primary_metric = name, run.recipe().evaluation.main_metric
        evaluator.get_config_dict = partial(dict, shown)
        data.eval_results_dict[evaluator] = run.metrics(name, "after")
        if kind in ("InformationRetrievalEvaluator", "NanoBEIREvaluator"):
            data.ir_model = True
            data.usage_examples = data.usage_examples or _examples(run, name)


def _examples(run: Run, name: str) -> list[str] | None:
    """A query and some documents for the usage example, one line each, without backticks."""
    ranked = run.hits(name, "after")
    if not len(ranked):
        return None
    query = run.per_query(name, "after").sort_values("query_id", kind="stable").iloc[0]
    mine = ranked[ranked["query_id"] == query["query_id"]].sort_values("position", kind="stable").head(EXAMPLES)
    texts = [str(query["query"]), *map(str, mine["document"])]
    return [" ".join(text.replace("`", "'").split())[:200] for text in texts]


def _measured_section(summary: Summary) -> list[str]:
    queries = summary.queries
    size = f"{queries.measured:,} {queries.unit}" if queries.measured else "the held-out rows"
    rows = (
        [
            name_of(row.metric, summary.main_metric),
            number(row.before),
            number(row.after),
            interval(row.low, row.high),
            signed(row.difference),
            interval(row.difference_low, row.difference_high),
        ]
        for row in summary.metrics
        if row.after is not None
    )
    lines = [
        "## Evaluation by Card Workbench",
        "",
        f"Measured on {size} of the evaluation `{queries.evaluation or 'unknown'}`, with 95% bootstrap confidence "
        f"intervals over the {queries.unit}.",
        "",
        *table(["Metric", "Base model", "This model", "95% CI", "Change", "95% CI"], rows, left=["Metric"]),
    ]
    if summary.stand_ins:
        lines += ["", "> **A stand-in was used, so this model is not a reproduction.**", ">"]
        lines += [f"> - {escape(sentence)}" for sentence in summary.stand_ins]
    return lines


def _differences(run: Run, summary: Summary) -> list[str]:
    """How this model and this card differ from the original."""
    card = run.card()
    lines = ["## How this card differs from the original", ""]
    if card is None:
        return [*lines, "The model was trained from a recipe; there is no original card."]
    lines += [
        f"The original is the card of {escape(card.title or card.name)} (SHA-256 `{card.sha256[:16]}…`). This model "
        f"was trained from that card's recipe, {escape(summary.variant)}, by Card Workbench.",
        "",
        f"**Verdict on the original's numbers: {escape(summary.verdict.word)}.** {escape(summary.verdict.meaning)}",
        "",
        *(f"- {escape(reason)}" for reason in summary.verdict.reasons),
    ]
    stated = [
        [escape(metric_name(row.metric), 60), number(row.card), with_interval(row)]
        for row in summary.metrics
        if row.card is not None
    ]
    if stated:
        lines += ["", *table(["Metric", "The original card", "This model (95% CI)"], stated, left=["Metric"])]
    lines += ["", "### Recipe", "", *_changed_fields(run, card)]
    if summary.findings:
        lines += ["", "### Findings on the original card", ""]
    for finding, proof in summary.findings or ():
        where = f" ({lines_of(proof)})" if proof else ""
        lines.append(f"- **{finding.severity}**, `{finding.code}`: {escape(finding.message)}{where}")
    return lines


def _changed_fields(run: Run, card: Card) -> list[str]:
    """The fields of the recipe that differ from the original card, and why."""
    from workbench.errors import RecipeError
    from workbench.recipe.from_card import recipe as read_off
    from workbench.recipe.schema import difference

    try:
        written, trained = read_off(card), run.recipe()
    except RecipeError as error:
        return [f"The original cannot be trained as written: {escape(error)}"]
    why = {"finding": "a finding on the original: ", "user": "chosen for this run", "card": "the card: "}
    rows = []
    for path, theirs, ours in difference(written, trained):
        origin = trained.provenance.get(path)
        note = escape(origin.note, 120) if origin is not None and origin.source != "user" else ""
        reason = (why.get(origin.source, "") + note) if origin is not None else ""
        values = [escape(field_text(value), 80) for value in (theirs, ours)]
        rows.append([f"`{path}`", *values, reason.rstrip(": ") or "–"])
    columns = ["Field", "The original", "This model", "Why"]
    return table(columns, rows, left=columns) if rows else ["Trained as the original card describes."]
