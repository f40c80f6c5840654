"""Write the facts of the five cards into data/cards/, in the layout of the trainer.

    python data/cards/make.py ../shared/cards/seeds-clean

Each card is read, and what was read is written again: front matter, description, architecture, metrics, datasets with
their statistics, loss, hyperparameters, log, versions. The original's sentences, samples, widget and boilerplate are
not read into those fields, so they are not copied. The same cards give the same bytes, and so the same SHA-256 in
`sources.yaml`.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from workbench.cards.card import Card, ColumnStatistics, Dataset, Evaluation, LogRow, Loss, Module
from workbench.cards.read import read_card

HERE = Path(__file__).resolve().parent
CARDS = {
    "gooaq-static-matryoshka": "a card handed to this project",
    "hotpotqa-distilbert-energy": "the repository wisebayes/beir",
    "korean-law-lora": "the repository zae-park/LexDPR",
    "porsche-mxbai": "the repository Poyen-Chen/TW-Porsche",
    "sinhala-xlmr-cosine": "the repository PrageethTorin/sinhala-plagiarism-tool",
}
"""Name -> where its facts come from."""
BESIDE = ("adapter_config.json", "config_sentence_transformers.json")
NOT_FACTS = {"widget"}


def facts_card(card: Card, origin: str) -> str:
    """The card's facts as the trainer would print them, with one sentence of our own."""
    header = {name: value for name, value in card.front_matter.items() if name not in NOT_FACTS}
    parts = [
        "---",
        yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=10_000).strip(),
        "---",
        "",
        f"# {card.title}",
        "",
        "## Model Details",
        "",
        "### Model Sources",
        "",
        f"Facts of the model card `{card.name}` ({origin}), written anew by `data/cards/make.py`: numbers, names and "
        "settings only. Example texts and standing text of the original are not part of this file.",
        "",
        "### Model Description",
        *description(card),
        "",
        "### Full Model Architecture",
        "",
        "```",
        "SentenceTransformer(",
        *itertools.chain.from_iterable(map(module, card.modules)),
        ")",
        "```",
        "",
        *evaluations(card.evaluations),
        "## Training Details",
        "",
        *datasets("Training", card.training_datasets()),
        *datasets("Evaluation", card.evaluation_datasets()),
        *hyperparameters(card),
        *log(card.training_log),
        "### Framework Versions",
        *(f"- {name}: {stated.value}" for name, stated in card.versions.items()),
        "",
        "## Citation",
        "",
        "### BibTeX",
        "",
        *itertools.chain.from_iterable((f"#### {name}", "") for name in card.citations),
    ]
    return "\n".join(parts).rstrip("\n") + "\n"


def description(card: Card) -> Iterator[str]:
    for name, stated in card.description.items():
        value = str(stated.value)
        if name == "Base model":
            revision = f" <!-- at revision {card.base_revision.value} -->" if card.base_revision else ""
            value = f"[{value}](https://huggingface.co/{value}){revision}"
        yield f"- **{name}:** {value}"


def module(part: Module) -> Iterator[str]:
    """A module as PyTorch prints it: its settings in braces, or the layers it holds."""
    if part.type == "StaticEmbedding":
        yield f"  ({part.index}): {part.type}("
        yield from (f"    ({name}): {layer}" for name, layer in part.parameters.items())
        yield "  )"
        return
    after = ""
    if part.architecture and part.parameters.get("architecture") != part.architecture:
        after = f" with Transformer model: {part.architecture} "
    yield f"  ({part.index}): {part.type}({dict(part.parameters)!r}){after}"


def evaluations(found: Iterable[Evaluation]) -> Iterator[str]:
    groups = [list(group) for _, group in itertools.groupby(found, key=lambda one: (one.name, one.lines))]
    if groups:
        yield from ("## Evaluation", "", "### Metrics", "")
    for group in groups:
        first = group[0]
        names = [f"`{name}`" for one in group for name in one.datasets]
        yield from (f"#### {first.name}", "")
        if names:
            listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
            yield f"* Dataset{'s' * (len(names) > 1)}: {listed}"
        yield f"* Evaluated with <code>{first.evaluator}</code>"
        if first.parameters:
            raise NotImplementedError(f"parameters of {first.name!r}")
        columns = [name.strip("`") for name in names] if len(group) > 1 else ["Value"]
        yield from ("", *table(["Metric", *columns], (metric_row(group, name) for name in first.metrics)), "")


def metric_row(group: list[Evaluation], name: str) -> list[str]:
    bold = "**" if group[0].main_metric == name else ""
    return [f"{bold}{name}{bold}", *(f"{bold}{one.metrics[name]}{bold}" for one in group)]


def datasets(role: str, found: Iterable[Dataset]) -> Iterator[str]:
    for index, dataset in enumerate(found):
        if index == 0:
            yield from (f"### {role} Dataset", "")
        yield from (f"#### {dataset.name or 'Unnamed Dataset'}", "")
        if dataset.id or dataset.revision:
            raise NotImplementedError(f"a Hub id in {dataset.name!r}")
        if dataset.name:
            yield f"* Dataset: {dataset.name}"
        if dataset.size is not None:
            yield f"* Size: {dataset.size:,} {role.lower()} samples"
        marked = [f"<code>{column}</code>" for column in dataset.columns]
        # With three columns or more the trainer puts a comma before "and".
        comma = "," if len(marked) > 2 else ""
        yield f"* Columns: {', '.join(marked[:-1])}{comma} and {marked[-1]}"
        yield f"* Approximate statistics based on the first {dataset.statistics_rows} samples:"
        yield from (f"  {line}" for line in table(*statistics(dataset.statistics)))
        if dataset.loss:
            yield from loss(dataset.loss)
        yield ""


def statistics(found: Iterable[ColumnStatistics]) -> tuple[list[str], list[list[str]]]:
    columns = list(found)
    details = []
    for column in columns:
        unit = f" {column.unit}" if column.unit else ""
        items = "".join(f"<li>{name}: {value}{unit}</li>" for name, value in column.details.items())
        details.append(f"<ul>{items}</ul>")
    rows = [["type", *(str(column.type) for column in columns)], ["details", *details]]
    return ["", *(column.column for column in columns)], rows


def loss(root: Loss) -> Iterator[str]:
    parameters = dict(root.parameters)
    if root.inner:
        parameters = {"loss": root.inner.name, **parameters}
        if root.inner.parameters or root.inner.inner:
            raise NotImplementedError(f"parameters of the loss inside {root.name!r}")
    yield f"* Loss: <code>{root.name}</code>" + (" with these parameters:" if parameters else "")
    if parameters:
        printed = json.dumps(parameters, indent=4, ensure_ascii=False).split("\n")
        yield from ("  ```json", *(f"  {line}" for line in printed), "  ```")


def hyperparameters(card: Card) -> Iterator[str]:
    parts = (("Non-Default", card.non_default), ("All", card.hyperparameters))
    yield "### Training Hyperparameters"
    for heading, arguments in parts:
        if arguments:
            yield from (f"#### {heading} Hyperparameters", "")
            yield from (f"- `{name}`: {stated.value}" for name, stated in arguments.items())
            yield ""


def log(rows: tuple[LogRow, ...]) -> Iterator[str]:
    if not rows:
        return
    losses = {
        "Training Loss": [row.training_loss for row in rows],
        "Validation Loss": [row.validation_loss for row in rows],
    }
    shown = {name: values for name, values in losses.items() if any(value is not None for value in values)}
    names = list(rows[0].metrics)
    yield from ("### Training Logs", "")
    yield from table(["Epoch", "Step", *shown, *names], log_cells(rows, shown, names))
    if any(row.saved for row in rows):
        yield from ("", "* The bold row denotes the saved checkpoint.")
    yield ""


def log_cells(
    rows: tuple[LogRow, ...], losses: Mapping[str, list[float | None]], names: list[str]
) -> Iterator[list[str]]:
    for index, row in enumerate(rows):
        values: list[Any] = [row.epoch, row.step, *(column[index] for column in losses.values())]
        values += [row.metrics[name] for name in names]
        bold = "**" if row.saved else ""
        yield ["-" if value is None else f"{bold}{value}{bold}" for value in values]


def table(heading: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield f"|{'|'.join(':--' for _ in heading)}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def make(source: Path, name: str) -> dict[str, str]:
    """File name -> content of the folder data/cards/NAME, from `source`/NAME.md and the files beside it."""
    card = read_card(source / f"{name}.md")
    files = {"README.md": facts_card(card, CARDS[name])}
    for beside in BESIDE:
        found = next((value for key, value in card.beside.items() if key.endswith(beside)), None)
        if found is not None:
            files[beside] = json.dumps(found, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    return files


def main(source: str) -> None:
    for name in CARDS:
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        for file, content in make(Path(source), name).items():
            (folder / file).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python data/cards/make.py FOLDER_WITH_THE_FIVE_CARDS")
    main(sys.argv[1])
