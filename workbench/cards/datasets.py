"""`### Training Dataset` and similar sections -> datasets with size, columns, statistics, samples and loss tree.

Each dataset has a heading, or is folded with its name in `<summary>`, or has no name. Cards from before 3.0 have a
DataLoader and a Loss instead (`read_fit`).
"""

from __future__ import annotations

import re
from typing import Any, Literal

from workbench.cards import literals
from workbench.cards.builder import CODE, LINK, STAR_BULLET, Sheet, key_lines, strip_links
from workbench.cards.card import ColumnStatistics, Dataset, Loss, Stated
from workbench.cards.markdown import Section, Table

Role = Literal["train", "evaluation"]

_HUB_DATASET = re.compile(r"https?://huggingface\.co/datasets/([^)\s/]+(?:/[^)\s/]+)?)(?:/tree/([^)\s/]+))?")
_AMOUNT = re.compile(r"([-+]?[\d.,]+(?:e[-+]?\d+)?|nan|inf)\s*(tokens|characters|elements|words|s)?$", re.IGNORECASE)

_FIT_LABEL = re.compile(
    r"The model was trained with the parameters:|\*\*(?:DataLoader|Loss)\*\*:|Parameters of the fit"
)


def read_datasets(sheet: Sheet, group: list[Section]) -> None:
    role: Role = "train" if "train" in group[0].title.lower() else "evaluation"
    parts: list[tuple[str | None, int, int]] = []  # name, first line, last line
    bare = True  # the current part has no fact yet, so that a heading names it instead of starting another
    headings = {section.first: section.title for section in group[1:]}
    for number in range(group[0].first + 1, group[-1].last + 1):
        line = sheet.line(number)
        folded = re.match(r"\s{0,3}<details>\s*<summary>(.*)$", line)
        name = headings.get(number)
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


def _read_dataset(sheet: Sheet, section: Section, role: Role, name: str | None, first: int, last: int) -> Dataset:
    while last > first and not sheet.line(last).strip():
        last -= 1
    found: dict[str, Any] = {"name": None if name == "Unnamed Dataset" else name}
    facts: dict[str, int] = {}
    for number in range(first, last + 1):
        bullet = STAR_BULLET.match(sheet.line(number))
        if bullet is None or bullet.group(1) == "Evaluated with":
            continue
        kind, text = bullet.group(1).lower().removeprefix("approximate "), bullet.group(2)
        facts |= dict.fromkeys(("name", "id", "revision") if kind.startswith("dataset") else (kind,), number)
        table = next(sheet.structure.tables_in(number + 1, min(number + 3, last)), None)
        sheet.mark(number)
        if kind.startswith("dataset"):
            found |= _source(text, found["name"])
        elif kind == "size":
            amount = literals.number(text.split(" ")[0])
            if isinstance(amount, int):
                found["size"] = amount
            else:
                sheet.miss(section, number, number, "size that is no number")
        elif kind == "columns":
            found["columns"] = tuple(CODE.findall(text) or re.findall(r"`([^`]+)`", text))
        elif kind == "statistics":
            rows = re.search(r"first ([\d,]+)", text)
            amount = literals.number(rows.group(1)) if rows else None
            found["statistics_rows"] = amount if isinstance(amount, int) else None
            if table is not None:
                found["statistics"] = _statistics(sheet, section, table)
        elif kind == "samples" and table is not None:
            kinds = {part.column: part.type for part in found.get("statistics", ())}
            found["samples"] = _samples(sheet, section, table, kinds)
        elif kind == "loss" and (loss := _loss(sheet, section, text, number)):
            found["loss"] = loss
    return Dataset(role, **found, lines=(first, last), facts=facts)


def _source(text: str, name: str | None) -> dict[str, Any]:
    """Name, Hub id and revision of a dataset, as far as its bullet states them."""
    link = LINK.search(text)
    hub = [found for _, address in LINK.findall(text) if (found := _HUB_DATASET.match(address))]
    return {
        "name": name or (link.group(1) if link else text.strip()) or None,
        "id": hub[0].group(1) if hub else None,
        "revision": next((found.group(2) for found in hub if found.group(2)), None),
    }


def _statistics(sheet: Sheet, section: Section, table: Table) -> tuple[ColumnStatistics, ...]:
    sheet.mark(table.first, table.last)
    by_name = {row.cells[0].lower(): row.cells for row in table.rows if row.whole}
    for row in table.rows:
        if not row.whole or row.cells[0].lower() not in ("type", "details", "modality"):
            sheet.miss(section, row.first, row.last, "statistics row that is not understood")
    out = []
    empty = [""] * len(table.header)
    for at, column in enumerate(table.header[1:], 1):
        kind, modality, shown = (by_name.get(name, empty)[at] for name in ("type", "modality", "details"))
        details, unit = _details(shown)
        out.append(ColumnStatistics(column, kind or None, details, unit, modality or None))
    return tuple(out)


def _details(text: str) -> tuple[dict[str, Any], str | None]:
    """One cell of the details row: `<ul><li>min: 9 tokens</li>…</ul>`, or shares of labels."""
    out: dict[str, Any] = {}
    unit = None
    for item in re.findall(r"<li>(.{0,300}?)</li>", text, re.DOTALL):
        key, _, shown = item.rpartition(": ")
        share = re.fullmatch(r"~?(\d{0,9}\.?\d{1,9})%", shown)
        amount = _AMOUNT.match(shown)
        if share:
            out[key] = round(float(share.group(1)) / 100, 6)
        elif amount and literals.number(amount.group(1)) is not None:
            out[key] = literals.number(amount.group(1))
            unit = amount.group(2) or unit
        else:
            out[key] = shown
    return out, unit


def _samples(sheet: Sheet, section: Section, table: Table, kinds: dict[str, str | None]) -> tuple[dict[str, Any], ...]:
    sheet.mark(table.first, table.last)
    out = []
    for row in table.rows:
        if row.whole:
            cells = zip(table.header, row.cells, strict=True)
            out.append({column: _sample(cell, kinds.get(column)) for column, cell in cells})
        else:
            sheet.miss(section, row.first, row.last, "sample row with other cells than its heading")
    return tuple(out)


def _sample(cell: str, kind: str | None) -> Any:
    """What a sample cell shows: text with its line breaks, or a number or list where the column holds such."""
    text = cell.removeprefix("<code>").removesuffix("</code>").replace("<br>", "\n")
    if kind == "bool":
        return {"True": True, "False": False}.get(text, text)
    found = literals.number(text) if kind in ("int", "float") else literals.literal(text) if kind == "list" else None
    return text if found is None else found


def _loss(sheet: Sheet, section: Section, text: str, number: int) -> Loss | None:
    code = CODE.search(text)
    name = code.group(1) if code else strip_links(text).removesuffix("with these parameters:").strip("` ")
    fence = None
    if text.rstrip().endswith("parameters:"):
        fence = next(sheet.structure.fences_in(number + 1, number + 3), None)
    settings = sheet.parameters(section, fence)
    return literals.loss(name, settings, number, key_lines(fence) if fence else {}) if name else None


def read_fit(sheet: Sheet, group: list[Section]) -> None:
    """`## Training` as `fit()` wrote it: pairs of DataLoader and Loss, then the parameters of `fit()`."""
    section = group[0]
    loaders = 0
    for number, line in sheet.body([section]):
        if _FIT_LABEL.match(line):
            sheet.mark(number)
        loader = re.match(r"`([\w.]*)`? of length (\d{1,12})", line)
        named = re.match(r"`([\w.]+)`", line)
        fence = next(sheet.structure.fences_in(number + 1, number + 2), None)
        if loader:
            loaders += 1
            settings = sheet.parameters(section, fence)
            content = {"class": loader.group(1), "length": int(loader.group(2)), **settings}
            sheet.hyperparameters["DataLoader" if loaders == 1 else f"DataLoader {loaders}"] = Stated(content, number)
            if "batch_size" in settings:
                sheet.hyperparameters.setdefault("batch_size", Stated(settings["batch_size"], number))
            sheet.mark(number)
        elif named and "loss" in named.group(1).lower():
            settings = sheet.parameters(section, fence if "parameters" in line else None)
            name = named.group(1)
            name = name.rsplit(".", 1)[-1] if name.startswith("sentence_transformers.") else name
            loss = literals.loss(name, settings, number, {})
            sheet.datasets.append(Dataset("train", None, loss=loss, lines=(number, number), facts={"loss": number}))
            sheet.mark(number)
        elif line.startswith("Parameters of the fit") and fence:
            lines = key_lines(fence)
            for key, item in sheet.parameters(section, fence).items():
                sheet.hyperparameters[key] = Stated(item, lines.get(key, fence.first))
