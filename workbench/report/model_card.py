"""A run -> the README.md of its new model, by the library's own card class.

The library writes the usual card (front matter with `model-index`, architecture, usage, hyperparameters, log). Two
sections before its training details are ours: the evaluation with intervals, and the differences from the original.
"""

from __future__ import annotations

import html
import json
import os
import textwrap
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError, RunError
from workbench.models.multilingual import MULTILINGUAL, MULTILINGUAL_ID
from workbench.models.stand_ins import BUNDLED, BUNDLED_ID, STATIC
from workbench.report.markdown import basis, card_table, interval, lines_of, name_of, signed_interval, table
from workbench.report.site import write
from workbench.run import Run
from workbench.views.card_facts import field_text
from workbench.views.records import number, signed
from workbench.views.summary import Summary, summarize
from workbench.views.theme import escape

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from workbench.cards.card import Card
    from workbench.data.pairs import Pairs
    from workbench.recipe.schema import LossSpec, Recipe, Training

MARK = "\n## Training Details\n"  # the library's section after ours
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
    data = _card_data(run, run.trained_recipe(), run.card(), model)
    text = str(ModelCard.from_template(card_data=data, template_path=data.template_path, hf_emoji="🤗").content)
    summary = summarize(run)
    ours = "\n".join([*_measured_section(summary), "", *_differences(run, summary), ""])
    head, mark, rest = text.partition(MARK)
    return f"{head}\n{ours}{mark}{rest}" if mark else f"{text}\n{ours}"


def _card_data(run: Run, recipe: Recipe, card: Card | None, model: SentenceTransformer) -> Any:
    """The library's card data, filled from the run folder and its rows; nothing is asked of the Hub."""
    from sentence_transformers import SentenceTransformerModelCardData

    record = run.record
    data = SentenceTransformerModelCardData(
        language=list(card.languages) if card else [],
        license=card.license if card else None,
        model_name=f"{recipe.name}, {recipe.variant}",
        local_files_only=True,
        generate_widget_examples=False,
    )
    data.register_model(model)
    data.first_save = False  # the base is what the run says it is
    data.base_model = {BUNDLED: BUNDLED_ID, MULTILINGUAL: MULTILINGUAL_ID}.get(recipe.base.model, recipe.base.model)
    data.base_model_revision = recipe.base.revision
    if recipe.base.model.startswith(("scratch:", STATIC)):
        data.base_model = None  # it is made on this machine
    data.train_datasets, data.eval_datasets = _datasets(run, recipe, data)
    data.set_losses([])
    size = sum(int(each["size"] or 0) for each in data.train_datasets)
    sizes = [f"dataset_size:{size}"] if size else []
    specs = [recipe.loss, *(each.loss for each in recipe.data.more if each.loss is not None)]
    losses = {loss.name for spec in specs for loss in spec.chain()}
    data.add_tags(["generated_from_trainer", *sizes, *(f"loss:{name}" for name in sorted(losses))])
    _add_hyperparameters(data, recipe.training)
    data.training_logs = _log(run, recipe)
    data.best_model_step = (record.get("best") or {}).get("step") if recipe.training.load_best_model_at_end else None
    versions = {name.replace("-", "_"): version for name, version in (record.get("versions") or {}).items()}
    data.version = {name: versions.get(name, "not recorded") for name in data.version}
    _add_evaluations(data, run)
    return data


def _add_hyperparameters(data: Any, training: Training) -> None:
    """All and those that are not the library's defaults, chosen as its own callback does."""
    from sentence_transformers import SentenceTransformerTrainingArguments
    from sentence_transformers.base.model_card import BaseModelCardCallback

    from workbench.training.trainer import own_arguments

    default: Any = SentenceTransformerTrainingArguments(output_dir="unused")
    given = SentenceTransformerTrainingArguments(
        output_dir="unused", eval_strategy=training.eval_strategy, **own_arguments(training)
    )
    given.fp16, given.bf16 = training.fp16, training.bf16  # which this machine may not compute
    callback: Any = BaseModelCardCallback(default.to_dict())
    callback.on_train_begin(given, None, None, model=SimpleNamespace(model_card_data=data))
    data._training_start_time = None  # nothing is trained here


def _datasets(run: Run, recipe: Recipe, data: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The training and the evaluation datasets, with statistics and examples where their rows are still there."""
    from workbench.training.prepare import recipe_rows

    record = run.record.get("data") or {}
    try:
        splits = recipe_rows(run.recipe())[0]
    except DataError:
        splits = None
    if splits is None or splits.train.sha256 != record.get("sha256"):
        sizes = {recipe.data.name: (record.get("rows") or {}).get("train")}
        sizes |= {name: each.get("rows") for name, each in (record.get("more") or {}).items()}
        return [_dataset(recipe, name, size) for name, size in sizes.items()], []
    names = {recipe.data.name: splits.train, **splits.more}
    train = [_described(data, _dataset(recipe, name, len(part)), part) for name, part in names.items()]
    held_out = splits.validation if recipe.training.validation_loss and recipe.training.eval_strategy != "no" else None
    if held_out is None or splits.more:
        return train, []
    return train, [_described(data, _dataset(recipe, recipe.data.name, len(held_out)), held_out)]


def _dataset(recipe: Recipe, name: str, size: int | None) -> dict[str, Any]:
    """Name, columns and loss of one dataset."""
    more = next((each for each in recipe.data.more if each.name == name), None)
    part = recipe.data if more is None else more
    source = recipe.data.train if more is None else more.source
    outer = recipe.loss if more is None or more.loss is None else more.loss
    loss = {"fullname": f"sentence_transformers.sentence_transformer.losses.{outer.name}"}
    if settings := _settings(outer):
        loss["config_code"] = textwrap.indent(f"```json\n{json.dumps(settings, indent=4)}\n```", "  ")
    columns = [f"<code>{escape(column, 60)}</code>" for column in part.columns] or ["unknown"]
    known = name if recipe.data.more else source.location
    return {"name": escape(known, 120), "size": size, "columns": columns, "loss": loss}


def _settings(loss: LossSpec) -> dict[str, Any]:
    """The loss's parameters; what it wraps as a call, as the library prints it."""
    if loss.inner is None:
        return dict(loss.parameters)
    arguments = ", ".join(f"{name}={value!r}" for name, value in _settings(loss.inner).items())
    return {"loss": f"{loss.inner.name}({arguments})", **loss.parameters}


def _described(data: Any, dataset: dict[str, Any], part: Pairs) -> dict[str, Any]:
    """The dataset with the library's statistics and its first rows, as text whatever they hold."""
    rows = part.rows.select_columns(list(part.columns))
    found = data.compute_dataset_metrics(rows, dict(dataset), None)
    found["examples"] = {
        name: [html.escape(each, quote=False) if isinstance(each, str) else each for each in values]
        for name, values in found["examples"].items()
    }
    found["examples_table"] = data._render_examples_table(found)[0]
    return {**found, "loss": dataset["loss"]}


def _log(run: Run, recipe: Recipe) -> list[dict[str, float]]:
    """The log as the trainer prints it: the mean loss since the logged step before, and every evaluation."""
    every, main = max(int(recipe.training.logging_steps), 1), recipe.evaluation.main_metric
    found, since = [], []
    for row in run.log():
        values = {"Epoch": row.get("epoch", -1), "Step": row["step"]}
        since += [row["loss"]] if row.get("loss") is not None else []
        if since and row["step"] % every == 0 and row.get("loss") is not None:
            values["Training Loss"] = round(sum(since) / len(since), 4)
            since = []
        if row.get("eval_loss") is not None:
            values["Validation Loss"] = round(row["eval_loss"], 4)
        values |= {name: round(value, 4) for name, value in row.items() if name.endswith(f"_{main}")}
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
            signed_interval(row.difference_low, row.difference_high),
        ]
        for row in summary.metrics
        if row.after is not None
    )
    lines = [
        "## Evaluation by Card Workbench",
        "",
        f"Measured on {size} of the evaluation `{queries.evaluation or 'unknown'}`, with 95% confidence intervals "
        f"over the {queries.unit}.",
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
        *basis(summary.verdict),
        *(f"- {escape(reason)}" for reason in summary.verdict.reasons),
    ]
    stated = [row for row in summary.metrics if row.card is not None]
    if stated:
        lines += ["", *card_table(stated, "", summary.seeds, before=False)]
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
        written, trained = read_off(card), run.trained_recipe()
    except RecipeError as error:
        return [f"The original cannot be trained as written: {escape(error)}"]
    why = {
        "finding": "a finding on the original: ",
        "user": "chosen for this run",
        "card": "the card: ",
        "file": "in its place",
    }
    rows = []
    for path, theirs, ours in difference(written, trained):
        origin = trained.provenance.get(path)
        note = escape(origin.note, 120) if origin is not None and origin.source not in ("user", "file") else ""
        reason = (why.get(origin.source, "") + note) if origin is not None else ""
        values = [escape(field_text(value), 80) for value in (theirs, ours)]
        rows.append([f"`{path}`", *values, reason.rstrip(": ") or "–"])
    columns = ["Field", "The original", "This model", "Why"]
    return table(columns, rows, left=columns) if rows else ["Trained as the original card describes."]
