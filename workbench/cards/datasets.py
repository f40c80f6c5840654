"""`### Training Dataset` and its like -> datasets with size, columns, statistics, samples and loss tree.

Datasets stand under a heading each, or folded with the name in `<summary>`, or without any name. Cards from before
3.0 have a DataLoader and a Loss instead (`read_fit`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from workbench.cards import literals
from workbench.cards.builder import CODE, LINK, STAR_BULLET, Sheet, block, key_lines, unlinked
from workbench.cards.card import ColumnStatistics, Dataset, Loss, Stated
from workbench.cards.markdown import Section, Table

_HUB_DATASET = re.compile(r"https?://huggingface\.co/datasets/([^)\s/]+(?:/[^)\s/]+)?)(?:/tree/([^)\s/]+))?")
_AMOUNT = re.compile(r"([-+]?[\d.,]+(?:e[-+]?\d+)?|nan|inf)\s*(tokens|characters|elements|words|s)?$", re.IGNORECASE)


def read_datasets(sheet: Sheet, group: list[Section]) -> None:
    role: Literal["train", "evaluation"] = "train" if "train" in group[0].title.lower() else "evaluation"
    parts: list[tuple[str | None, int, int]] = []  # name, first line, last line
    bare = True  # the current part has no fact yet, so that a heading names it instead of starting another
    end = group[-1].last
    headings = {section.first: section for section in group[1:]}
    for number in range(group[0].first + 1, end + 1):
        line = sheet.line(number)
        folded = re.match(r"\s{0,3}<details>\s*<summary>(.*)$", line)
        name = headings[number].title if number in headings else None
        if folded:
            name = re.sub(r"</?summary>", "", folded.group(1)).strip()
            sheet.mark(number)
        if name is not None:
            if not (parts and bare):
                parts.append((name, number, number))
            elif not folded:
                parts[-1] = (name, parts[-1][1], number)
            bare = True
        elif STAR_BULLET.match(line):
            if not parts:
                parts.append((None, number, number))
            bare = False
        elif line.strip() == "</details>":
            sheet.mark(number)
        if parts:
            parts[-1] = (*parts[-1][:2], number)
    for name, first, last in parts:
        sheet.datasets.append(_read_dataset(sheet, group[0], role, name, first, last))


def _read_dataset(
    sheet: Sheet, section: Section, role: Literal["train", "evaluation"], name: str | None, first: int, last: int
) -> Dataset:
    while last > first and not sheet.line(last).strip():
        last -= 1
    dataset = Dataset(role, None if name == "Unnamed Dataset" else name, lines=(first, last))
    facts: dict[str, int] = {}
    for number in range(first, last + 1):
        bullet = STAR_BULLET.match(sheet.line(number))
        if bullet is None:
            continue
        kind, text = bullet.group(1).lower().replace("datasets", "dataset"), bullet.group(2)
        after = next((table for table in sheet.structure.tables_in(number + 1, min(number + 3, last))), None)
        reader = _FACTS.get(kind)
        if reader is not None:
            sheet.mark(number)
            facts[_FACT_NAMES.get(kind, kind)] = number
            if kind == "dataset":
                facts["id"] = facts["revision"] = number
            dataset = reader(sheet, section, dataset, text, number, after)
    return replace(dataset, facts=facts)


def _dataset_name(
    sheet: Sheet, section: Section, dataset: Dataset, text: str, number: int, table: Table | None
) -> Dataset:
    link = LINK.search(text)
    name = dataset.name or (link.group(1) if link else text.strip()) or None
    hub = [found for _, address in LINK.findall(text) if (found := _HUB_DATASET.match(address))]
    revision = next((found.group(2) for found in hub if found.group(2)), None)
    return replace(dataset, name=name, id=hub[0].group(1) if hub else None, revision=revision)


def _dataset_size(
    sheet: Sheet, section: Section, dataset: Dataset, text: str, number: int, table: Table | None
) -> Dataset:
    amount = literals.number(text.split(" ")[0])
    if not isinstance(amount, int):
        sheet.miss(section, number, number, "size that is no number")
        return dataset
    return replace(dataset, size=amount)


def _dataset_columns(
    sheet: Sheet, section: Section, dataset: Dataset, text: str, number: int, table: Table | None
) -> Dataset:
    names = CODE.findall(text) or re.findall(r"`([^`]+)`", text)
    return replace(dataset, columns=tuple(names))


def _dataset_statistics(
    sheet: Sheet, section: Section, dataset: Dataset, text: str, number: int, table: Table | None
) -> Dataset:
    rows = re.search(r"first ([\d,]+)", text)
    amount = literals.number(rows.group(1)) if rows else None
    if table is None:
        return replace(dataset, statistics_rows=amount if isinstance(amount, int) else None)
    sheet.mark(table.first, table.last)
    by_name = {row.cells[0].lower(): row.cells for row in table.rows if row.whole}
    for row in table.rows:
        if not row.whole or row.cells[0].lower() not in ("type", "details", "modality"):
            sheet.miss(section, row.first, row.last, "statistics row that is not understood")
    out = []
    for at, column in enumerate(table.header):
        if at == 0:
            continue
        kind = by_name["type"][at] if "type" in by_name else None
        modality = by_name["modality"][at] if "modality" in by_name else None
        details, unit = _details(by_name["details"][at] if "details" in by_name else "")
        out.append(ColumnStatistics(column, kind or None, details, unit, modality or None))
    return replace(dataset, statistics=tuple(out), statistics_rows=amount if isinstance(amount, int) else None)


def _details(text: str) -> tuple[dict[str, Any], str | None]:
    """One cell of the details row: `<ul><li>min: 9 tokens</li>…</ul>`, or shares of labels."""
    out: dict[str, Any] = {}
    unit = None
    for item in re.findall(r"<li>(.{0,300}?)</li>", text, re.DOTALL):
        key, _, shown = item.rpartition(": ")
        share = re.fullmatch(r"~?([\d.]+)%", shown)
        amount = _AMOUNT.match(shown)
        if share:
            out[key] = round(float(share.group(1)) / 100, 6)
        elif amount and literals.number(amount.group(1)) is not None:
            out[key] = literals.number(amount.group(1))
            unit = amount.group(2) or unit
        else:
            out[key] = shown
    return out, unit


def _dataset_samples(
    sheet: Sheet, section: Section, dataset: Dataset, text: str, number: int, table: Table | None
) -> Dataset:
    if table is None:
        return dataset
    sheet.mark(table.first, table.last)
    kinds = {part.column: part.type for part in dataset.statistics}
    samples = []
    for row in table.rows:
        if row.whole:
            pairs = zip(table.header, row.cells, strict=True)
            samples.append({column: _sample(cell, kinds.get(column)) for column, cell in pairs})
        else:
            sheet.miss(section, row.first, row.last, "sample row with other cells than its heading")
    return replace(dataset, samples=tuple(samples))


def _sample(cell: str, kind: str | None) -> Any:
    """What a sample cell shows: text with its line breaks, or a number or list where the column holds such."""
    text = cell.removeprefix("<code>").removesuffix("</code>").replace("<br>", "\n")
    if kind in ("int", "float"):
        amount = literals.number(text)
        return text if amount is None else amount
    if kind == "bool":
        return {"True": True, "False": False}.get(text, text)
    if kind == "list":
        found = literals.literal(text)
        return text if found is None else found
    return text


def _dataset_loss(
    sheet: Sheet, section: Section, dataset: Dataset, text: str, number: int, table: Table | None
) -> Dataset:
    code = CODE.search(text)
    name = code.group(1) if code else unlinked(text).removesuffix("with these parameters:").strip("` ")
    settings: Mapping[str, Any] = {}
    lines: dict[str, int] = {}
    if text.rstrip().endswith("parameters:"):
        fence = next(iter(sheet.structure.fences_in(number + 1, number + 3)), None)
        if fence is not None:
            settings = block(sheet, section, fence) or {}
            lines = key_lines(fence)
    return replace(dataset, loss=literals.loss(name, settings, number, lines)) if name else dataset


_FACTS: dict[str, Callable[..., Dataset]] = {
    "dataset": _dataset_name,
    "size": _dataset_size,
    "columns": _dataset_columns,
    "approximate statistics": _dataset_statistics,
    "samples": _dataset_samples,
    "loss": _dataset_loss,
}
_FACT_NAMES = {"approximate statistics": "statistics", "dataset": "name"}


def read_fit(sheet: Sheet, group: list[Section]) -> None:
    """`## Training` as `fit()` wrote it: pairs of DataLoader and Loss, then the parameters of `fit()`."""
    section = group[0]
    loaders = 0
    for number in range(section.first + 1, section.last + 1):
        line = sheet.line(number)
        if re.match(
            r"The model was trained with the parameters:|\*\*(?:DataLoader|Loss)\*\*:|Parameters of the fit", line
        ):
            sheet.mark(number)
        loader = re.match(r"`([\w.]*)`? of length (\d+)", line)
        named = re.match(r"`([\w.]+)`", line)
        fence = next(iter(sheet.structure.fences_in(number + 1, number + 2)), None)
        if loader:
            loaders += 1
            settings = (block(sheet, section, fence) if fence else None) or {}
            content = {"class": loader.group(1), "length": int(loader.group(2)), **settings}
            name = "DataLoader" if loaders == 1 else f"DataLoader {loaders}"
            sheet.hyperparameters[name] = Stated(content, number)
            if "batch_size" in settings:
                sheet.hyperparameters.setdefault("batch_size", Stated(settings["batch_size"], number))
            sheet.mark(number)
        elif named and "loss" in named.group(1).lower():
            inside = (block(sheet, section, fence) if fence and "parameters" in line else None) or {}
            name = named.group(1)
            found = literals.loss(
                name.rsplit(".", 1)[-1] if name.startswith("sentence_transformers.") else name, inside, number, {}
            )
            sheet.datasets.append(_fit_dataset(found, number))
            sheet.mark(number)
        elif line.startswith("Parameters of the fit") and fence:
            lines = key_lines(fence)
            for key, item in (block(sheet, section, fence) or {}).items():
                sheet.hyperparameters[key] = Stated(item, lines.get(key, fence.first))


def _fit_dataset(loss: Loss, number: int) -> Dataset:
    return Dataset("train", None, loss=loss, lines=(number, number), facts={"loss": number})
