"""Sections of a card -> facts. One reader per section of the library's template; `Sheet` remembers what was read.

The template is that of sentence-transformers 3.0 to 6.x and of PyLate; the sections of cards from before 3.0
(DataLoader, Loss, Parameters of the fit()-Method) are read too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from workbench import values
from workbench.card import ColumnStatistics, Dataset, Evaluation, LogRow, Loss, Module, Stated, Unread
from workbench.structure import Fence, Section, Structure, Table

_BOLD_BULLET = re.compile(r"\s*[-*] \*\*(.{1,80}?):?\*\*:?\s*(.*)$")
_PLAIN_BULLET = re.compile(r"\s*[-*] ([^:`*\[]{1,60}):\s*(.*)$")
_CODE_BULLET = re.compile(r"\s*[-*] `([^`]{1,120})`: ?(.*)$")
_STAR_BULLET = re.compile(
    r"\s{0,3}[*-] (Datasets?|Evaluated with|Size|Columns|Approximate statistics|Samples|Loss)\b:?\s*(.*)$"
)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]*)\)")
_CODE = re.compile(r"<code>(.*?)</code>", re.DOTALL)
_HUB_DATASET = re.compile(r"https?://huggingface\.co/datasets/([^)\s/]+(?:/[^)\s/]+)?)(?:/tree/([^)\s/]+))?")
_REVISION = re.compile(r"<!--\s*at revision ([^\s>]+)\s*-->")
_MODULE = re.compile(r"^  \((\w+)\): (\w+)(.*)$")
_CHILD = re.compile(r"^ {3,}\(([^)]*)\): (.*)$")
_WITH_MODEL = re.compile(r"^(\(.*\)) with Transformer model: (\S+)\s*$")
_AMOUNT = re.compile(r"([-+]?[\d.,]+(?:e[-+]?\d+)?|nan|inf)\s*(tokens|characters|elements|words|s)?$", re.IGNORECASE)
_SCORE = re.compile(r"(\S+)\s*\(([-+][\d.]+(?:e[-+]?\d+)?|nan)\)$")


@dataclass
class Sheet:
    """A card while it is being read."""

    structure: Structure
    seen: set[int] = field(default_factory=set)  # lines that were understood
    unread: list[Unread] = field(default_factory=list)
    modules: list[Module] = field(default_factory=list)
    pipeline: str | None = None  # class around the modules: "SentenceTransformer", "ColBERT"
    description: dict[str, Stated[str]] = field(default_factory=dict)
    facts: dict[str, Stated[Any]] = field(default_factory=dict)  # base_model, base_revision, max_seq_length, ...
    datasets: list[Dataset] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    non_default: dict[str, Stated[Any]] = field(default_factory=dict)
    hyperparameters: dict[str, Stated[Any]] = field(default_factory=dict)
    log: list[LogRow] = field(default_factory=list)
    training_time: dict[str, Stated[Any]] = field(default_factory=dict)
    versions: dict[str, Stated[str]] = field(default_factory=dict)
    citations: list[str] = field(default_factory=list)

    def line(self, number: int) -> str:
        return self.structure.line(number)

    def mark(self, first: int, last: int | None = None) -> None:
        self.seen.update(range(first, (first if last is None else last) + 1))

    def state(self, name: str, value: Any, line: int) -> None:
        """Keep a fact unless an earlier line has stated it."""
        self.facts.setdefault(name, Stated(value, line))

    def miss(self, section: Section, first: int, last: int, reason: str) -> None:
        self.unread.append(Unread(" > ".join(section.path), (first, last), reason))
        self.mark(first, last)


def read_sections(structure: Structure) -> Sheet:
    """All sections; what no reader claims is listed in `unread`."""
    sheet = Sheet(structure)
    if structure.header is not None:
        sheet.mark(structure.header[0] - 1, structure.header[1] + 1)
    for group in _groups(structure.sections):
        title = group[0].title.lower().strip(" :*")
        reader = _READERS.get(title)
        if reader is not None:
            for section in group:
                if section.first:
                    sheet.mark(section.first)
            reader(sheet, group)
        elif group[0].level <= 1:
            _read_introduction(sheet, group)
    _mark_comments(sheet)
    _list_unread(sheet)
    return sheet


def _groups(sections: list[Section]) -> Iterator[list[Section]]:
    """Each section alone, but a section whose reader wants its children together with them."""
    at = 0
    while at < len(sections):
        group = [sections[at]]
        at += 1
        if group[0].title.lower().strip(" :*") in _WITH_CHILDREN:
            while at < len(sections) and sections[at].level > group[0].level:
                group.append(sections[at])
                at += 1
        yield group


# -- introduction and description ------------------------------------------------------------------------------------


def _read_introduction(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        if section.level == 1:
            sheet.mark(section.first)
        for number in range(max(section.first, 1), section.last + 1):
            line = sheet.line(number)
            if re.match(r"(?:This is an? |It maps )", line) and ("model" in line or "maps" in line):
                sheet.mark(number)
                found = re.search(r"(\d+)[- ]dimensional", line)
                if found:
                    sheet.state("intro_dimension", int(found.group(1)), number)
                found = re.search(r"finetuned from \[([^\]]+)\]", line)
                if found:
                    sheet.state("intro_base", found.group(1), number)


def _read_description(sheet: Sheet, group: list[Section]) -> None:
    name, line_of_name = "", 0
    for section in group:
        for number in range(section.first + 1, section.last + 1):
            line = sheet.line(number)
            bullet = _BOLD_BULLET.match(line)
            if bullet:
                name, line_of_name = bullet.group(1).strip(), number
                sheet.description[name] = Stated(_unlinked(bullet.group(2)), number)
                sheet.mark(number)
                _describe(sheet, name.lower(), bullet.group(2), number)
            elif name and re.match(r"\s{2,}[-*] \S", line):
                listed = [sheet.description[name].value, _unlinked(line.strip()[2:])]
                sheet.description[name] = Stated("\n".join(part for part in listed if part), line_of_name)
                sheet.mark(number)


def _describe(sheet: Sheet, name: str, text: str, number: int) -> None:
    plain = _unlinked(text)
    amount = re.match(r"\s*([\d,]+|inf)\b", text)
    count = values.number(amount.group(1)) if amount else None
    if name == "base model":
        if plain and plain.lower() != "unknown":
            sheet.state("base_model", plain, number)
        revision = _REVISION.search(text)
        if revision:
            sheet.state("base_revision", revision.group(1), number)
    elif name in ("maximum sequence length", "max sequence length", "document length") and count is not None:
        sheet.state("max_seq_length", count, number)
    elif name in ("output dimensionality", "output dimension", "embedding dimension") and count is not None:
        sheet.state("output_dimension", count, number)
    elif name == "similarity function" and plain and plain.lower() != "none":
        sheet.state("similarity", plain, number)


def _unlinked(text: str) -> str:
    """Text with `[shown](address)` replaced by what is shown, without comments."""
    return _LINK.sub(lambda found: found.group(1), re.sub(r"<!--[^>]*-->", "", text)).strip()


def _read_details(sheet: Sheet, group: list[Section]) -> None:
    """A hand-made table of settings: the few that a card states elsewhere too."""
    names = {
        "dimensions": "output_dimension",
        "max sequence length": "max_seq_length",
        "suitable score functions": "similarity",
    }
    for section in group:
        for table in sheet.structure.tables_in(section.first, section.last):
            if len(table.header) != 2:
                continue
            sheet.mark(table.first, table.last)
            for row in table.rows:
                if not row.whole:
                    continue
                key, text = row.cells
                sheet.description[key] = Stated(_unlinked(text), row.first)
                fact = names.get(key.lower())
                amount = values.number(text)
                if fact == "similarity":
                    sheet.state(fact, _unlinked(text), row.first)
                elif fact and isinstance(amount, int):
                    sheet.state(fact, amount, row.first)


# -- architecture ----------------------------------------------------------------------------------------------------


def _read_architecture(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        for fence in sheet.structure.fences_in(section.first, section.last):
            if not sheet.modules:
                _read_modules(sheet, section, fence)


def _read_modules(sheet: Sheet, section: Section, fence: Fence) -> None:
    lines = fence.text.split("\n")
    for offset, line in enumerate(lines):
        number = fence.first + 1 + offset
        top = re.match(r"^(\w+)\($", line.strip()) if not line.startswith(" ") else None
        module = _MODULE.match(line)
        child = _CHILD.match(line)
        if top:
            sheet.pipeline = top.group(1)
        elif module:
            sheet.modules.append(_module(len(sheet.modules), module.group(2), module.group(3), number))
        elif child and sheet.modules:
            last = sheet.modules[-1]
            inside = dict(last.parameters)
            key = child.group(1)
            while key in inside:
                key += "'"
            inside[key] = child.group(2).rstrip()
            sheet.modules[-1] = replace(last, parameters=inside)
        elif line.strip() and line.strip(" ,)") and sheet.modules:
            last = sheet.modules[-1]
            inside = {**last.parameters, **values.call(f"f({line.strip().rstrip(',')})")[1]}
            sheet.modules[-1] = replace(last, parameters=inside)
        elif line.strip(" )"):
            sheet.miss(section, number, number, "architecture line that is no module")
    sheet.mark(fence.first, fence.last)


def _module(index: int, kind: str, rest: str, line: int) -> Module:
    """One module from the text after its class, in any of the three forms that the library has printed."""
    architecture = None
    found = _WITH_MODEL.match(rest)
    if found:
        rest, architecture = found.group(1), found.group(2)
    inside = rest.strip()
    parameters: Mapping[str, Any] = {}
    if inside.startswith("({"):
        read = values.literal(inside[1 : inside.rfind(")")] if ")" in inside else inside[1:])
        parameters = read if isinstance(read, dict) else {"text": inside}
    elif len(inside) > 2:
        parameters = values.call(kind + inside)[1]
    if architecture is None and isinstance(parameters.get("architecture"), str):
        architecture = parameters["architecture"]
    return Module(index, kind, parameters, architecture, line)


# -- evaluation ------------------------------------------------------------------------------------------------------


def _read_evaluation(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        facts = {}
        for number in range(section.first + 1, section.last + 1):
            bullet = _STAR_BULLET.match(sheet.line(number))
            if bullet:
                facts[bullet.group(1).lower().removesuffix("s")] = (bullet.group(2), number)
        tables = list(sheet.structure.tables_in(section.first, section.last))
        if section is group[0] and not facts:
            continue
        table = next(
            (table for table in tables if table.header and table.header[0].strip("* ").lower() == "metric"), None
        )
        if table is not None:
            _read_metrics(sheet, section, table, facts)


def _read_metrics(sheet: Sheet, section: Section, table: Table, facts: Mapping[str, tuple[str, int]]) -> None:
    names: tuple[str, ...] = ()
    if "dataset" in facts:
        names = tuple(re.findall(r"`([^`]*)`", facts["dataset"][0])) or (_unlinked(facts["dataset"][0]),)
        sheet.mark(facts["dataset"][1])
    evaluator = None
    if "evaluated with" in facts:
        text, number = facts["evaluated with"]
        code = _CODE.search(text)
        evaluator = code.group(1) if code else _unlinked(text).removesuffix("with these parameters:").strip() or None
        sheet.mark(number)
    parameters: Mapping[str, Any] = {}
    for fence in sheet.structure.fences_in(section.first, table.first):
        parameters = _block(sheet, section, fence) or parameters
    sheet.mark(table.first, table.last)
    columns = table.header[1:]
    for at, column in enumerate(columns):
        metrics, gains, lines, main = _column(sheet, section, table, at + 1)
        alone = len(columns) == 1
        datasets = names if alone else (column.strip("*"),) if column.strip("*") else ()
        sheet.evaluations.append(
            Evaluation(
                evaluator, section.title, datasets, parameters, metrics, main, (section.first, table.last), lines, gains
            )
        )


def _column(
    sheet: Sheet, section: Section, table: Table, at: int
) -> tuple[dict[str, float], dict[str, float], dict[str, int], str | None]:
    metrics: dict[str, float] = {}
    gains: dict[str, float] = {}
    lines: dict[str, int] = {}
    main = None
    for row in table.rows:
        if at >= len(row.cells):
            if at == 1 or len(row.cells) > 1:
                sheet.miss(section, row.first, row.last, "table row with too few cells")
            continue
        name = row.cells[0].strip("* ")
        text = row.cells[at].strip("* ")
        score = _SCORE.match(text)
        amount = values.number(score.group(1) if score else text)
        if amount is None or not name:
            sheet.miss(section, row.first, row.last, f"metric whose value is no number: {text[:40]!r}")
            continue
        metrics[name] = float(amount)
        lines[name] = row.first
        gain = values.number(score.group(2)) if score else None
        if gain is not None:
            gains[name] = float(gain)
        if row.cells[0].startswith("**"):
            main = main or name
    return metrics, gains, lines, main


def _block(sheet: Sheet, section: Section, fence: Fence) -> Mapping[str, Any] | None:
    """Parameters in a fenced block; unread where they are neither JSON nor a Python literal."""
    found = values.parameters(fence.text)
    if found is None:
        sheet.miss(section, fence.first, fence.last, "parameters that are neither JSON nor a Python literal")
    else:
        sheet.mark(fence.first, fence.last)
    return found


# -- datasets --------------------------------------------------------------------------------------------------------


def _read_datasets(sheet: Sheet, group: list[Section]) -> None:
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
        elif _STAR_BULLET.match(line):
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
        bullet = _STAR_BULLET.match(sheet.line(number))
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
    link = _LINK.search(text)
    name = dataset.name or (link.group(1) if link else text.strip()) or None
    hub = [found for _, address in _LINK.findall(text) if (found := _HUB_DATASET.match(address))]
    revision = next((found.group(2) for found in hub if found.group(2)), None)
    return replace(dataset, name=name, id=hub[0].group(1) if hub else None, revision=revision)


def _dataset_size(
    sheet: Sheet, section: Section, dataset: Dataset, text: str, number: int, table: Table | None
) -> Dataset:
    amount = values.number(text.split(" ")[0])
    if not isinstance(amount, int):
        sheet.miss(section, number, number, "size that is no number")
        return dataset
    return replace(dataset, size=amount)


def _dataset_columns(
    sheet: Sheet, section: Section, dataset: Dataset, text: str, number: int, table: Table | None
) -> Dataset:
    names = _CODE.findall(text) or re.findall(r"`([^`]+)`", text)
    return replace(dataset, columns=tuple(names))


def _dataset_statistics(
    sheet: Sheet, section: Section, dataset: Dataset, text: str, number: int, table: Table | None
) -> Dataset:
    rows = re.search(r"first ([\d,]+)", text)
    amount = values.number(rows.group(1)) if rows else None
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
    for item in re.findall(r"<li>(.*?)</li>", text, re.DOTALL):
        key, _, shown = item.rpartition(": ")
        share = re.fullmatch(r"~?([\d.]+)%", shown)
        amount = _AMOUNT.match(shown)
        if share:
            out[key] = round(float(share.group(1)) / 100, 6)
        elif amount and values.number(amount.group(1)) is not None:
            out[key] = values.number(amount.group(1))
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
        amount = values.number(text)
        return text if amount is None else amount
    if kind == "bool":
        return {"True": True, "False": False}.get(text, text)
    if kind == "list":
        found = values.literal(text)
        return text if found is None else found
    return text


def _dataset_loss(
    sheet: Sheet, section: Section, dataset: Dataset, text: str, number: int, table: Table | None
) -> Dataset:
    code = _CODE.search(text)
    name = code.group(1) if code else _unlinked(text).removesuffix("with these parameters:").strip("` ")
    settings: Mapping[str, Any] = {}
    lines: dict[str, int] = {}
    if text.rstrip().endswith("parameters:"):
        fence = next(iter(sheet.structure.fences_in(number + 1, number + 3)), None)
        if fence is not None:
            settings = _block(sheet, section, fence) or {}
            lines = _key_lines(fence)
    return replace(dataset, loss=values.loss(name, settings, number, lines)) if name else dataset


def _key_lines(fence: Fence) -> dict[str, int]:
    out: dict[str, int] = {}
    for offset, line in enumerate(fence.text.split("\n")):
        found = re.match(r"""\s*\{?\s*["']([^"']+)["']\s*:""", line)
        if found:
            out.setdefault(found.group(1), fence.first + 1 + offset)
    return out


_FACTS: dict[str, Callable[..., Dataset]] = {
    "dataset": _dataset_name,
    "size": _dataset_size,
    "columns": _dataset_columns,
    "approximate statistics": _dataset_statistics,
    "samples": _dataset_samples,
    "loss": _dataset_loss,
}
_FACT_NAMES = {"approximate statistics": "statistics", "dataset": "name"}


# -- hyperparameters, log, times, versions ---------------------------------------------------------------------------


def _read_hyperparameters(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        target = sheet.non_default if section.title.lower().startswith("non-default") else sheet.hyperparameters
        name, text, start = "", "", 0
        for number in range(section.first + 1, section.last + 2):
            line = sheet.line(number) if number <= section.last else ""
            bullet = _CODE_BULLET.match(line)
            fold = line.strip() in ("<details><summary>Click to expand</summary>", "</details>", "<details>")
            if name and (bullet or fold or not line.strip()):
                target.setdefault(name, Stated(values.value(text), start))
                name = ""
            if bullet:
                name, text, start = bullet.group(1), bullet.group(2), number
                sheet.mark(number)
            elif name:
                text += "\n" + line
                sheet.mark(number)
            elif fold:
                sheet.mark(number)


def _read_log(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        for table in sheet.structure.tables_in(section.first, section.last):
            heads = [head.strip("* ") for head in table.header]
            if "Step" in heads or "Epoch" in heads:
                _read_log_table(sheet, section, table, heads)
        for number in range(section.first + 1, section.last + 1):
            if re.match(r"\* The bold row denotes|</?details>", sheet.line(number).strip()):
                sheet.mark(number)


def _read_log_table(sheet: Sheet, section: Section, table: Table, heads: list[str]) -> None:
    sheet.mark(table.first, table.last)
    own = "Validation Loss" if "Validation Loss" in heads else "loss"
    for row in table.rows:
        amounts: dict[str, float | None] = {}
        wrong = None if row.whole else "log row with other cells than its heading"
        bold = 0
        for head, cell in zip(heads, row.cells, strict=False):
            text = cell
            if len(cell) > 4 and cell.startswith("**") and cell.endswith("**"):
                text, bold = cell[2:-2].strip(), bold + 1
            amounts[head] = None if text in ("-", "") else values.number(text.rstrip("*"))
            if amounts[head] is None and text not in ("-", ""):
                wrong = f"log cell that is no number: {text[:40]!r}"
        if wrong:
            sheet.miss(section, row.first, row.last, wrong)
            if not row.whole:
                continue
        epoch, step = amounts.pop("Epoch", None), amounts.pop("Step", None)
        sheet.log.append(
            LogRow(
                epoch=None if epoch is None else float(epoch),
                step=None if step is None or not math.isfinite(step) else int(step),
                training_loss=_real(amounts.pop("Training Loss", None)),
                validation_loss=_real(amounts.pop(own, None)),
                metrics={head: _real(amount) for head, amount in amounts.items()},
                saved=bold > 0,
                line=row.first,
            )
        )


def _real(amount: float | None) -> float | None:
    return None if amount is None else math.nan if math.isnan(amount) else float(amount)


def _read_times(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        for number in range(section.first + 1, section.last + 1):
            line = sheet.line(number)
            bullet = _BOLD_BULLET.match(line)
            if bullet:
                sheet.training_time[bullet.group(1)] = Stated(_unlinked(bullet.group(2)), number)
                sheet.mark(number)
            elif line.startswith("Carbon emissions were measured"):
                sheet.mark(number)


def _read_versions(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        for number in range(section.first + 1, section.last + 1):
            bullet = _PLAIN_BULLET.match(sheet.line(number))
            if bullet:
                if bullet.group(2).strip():
                    sheet.versions[bullet.group(1).strip()] = Stated(bullet.group(2).strip(), number)
                sheet.mark(number)


def _read_citations(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        sheet.mark(section.first, section.last)
        if section.level >= group[0].level + 2:
            sheet.citations.extend(part for part in re.split(r", | and ", section.title) if part)


# -- cards from before 3.0 -------------------------------------------------------------------------------------------


def _read_fit(sheet: Sheet, group: list[Section]) -> None:
    """`## Training` as `fit()` wrote it: pairs of DataLoader and Loss, then the parameters of `fit()`."""
    section = group[0]
    rows = size = None
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
            settings = (_block(sheet, section, fence) if fence else None) or {}
            rows, size = int(loader.group(2)), settings.get("batch_size")
            sheet.hyperparameters.setdefault("batch_size", Stated(size, number))
            sheet.hyperparameters.setdefault("steps_in_loader", Stated(rows, number))
            sheet.mark(number)
        elif named and "loss" in named.group(1).lower():
            inside = (_block(sheet, section, fence) if fence and "parameters" in line else None) or {}
            name = named.group(1)
            found = values.loss(
                name.rsplit(".", 1)[-1] if name.startswith("sentence_transformers.") else name, inside, number, {}
            )
            sheet.datasets.append(_fit_dataset(found, number))
            sheet.mark(number)
        elif line.startswith("Parameters of the fit") and fence:
            lines = _key_lines(fence)
            for key, item in (_block(sheet, section, fence) or {}).items():
                sheet.hyperparameters[key] = Stated(item, lines.get(key, fence.first))


def _fit_dataset(loss: Loss, number: int) -> Dataset:
    return Dataset("train", None, loss=loss, lines=(number, number), facts={"loss": number})


# -- what nobody read ------------------------------------------------------------------------------------------------


def _mark_all(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        sheet.mark(section.first, section.last)


def _mark_heading(sheet: Sheet, group: list[Section]) -> None:
    """A heading of the template that has no text of its own."""


_READERS: dict[str, Callable[[Sheet, list[Section]], None]] = {
    "model description": _read_description,
    "technical details": _read_details,
    "full model architecture": _read_architecture,
    "evaluation": _read_evaluation,
    "training dataset": _read_datasets,
    "training datasets": _read_datasets,
    "evaluation dataset": _read_datasets,
    "evaluation datasets": _read_datasets,
    "non-default hyperparameters": _read_hyperparameters,
    "all hyperparameters": _read_hyperparameters,
    "training logs": _read_log,
    "environmental impact": _read_times,
    "training hardware": _read_times,
    "training time": _read_times,
    "framework versions": _read_versions,
    "citation": _read_citations,
    "training": _read_fit,
    "usage": _mark_all,
    "usage (sentence-transformers)": _mark_all,
    "usage (huggingface transformers)": _mark_all,
    "model sources": _mark_all,
    "additional resources": _mark_all,
    "citing & authors": _mark_all,
    "model details": _mark_heading,
    "training details": _mark_heading,
    "training hyperparameters": _mark_heading,
}
_WITH_CHILDREN = {
    "evaluation", "training dataset", "training datasets", "evaluation dataset", "evaluation datasets", "usage",
    "citation", "citing & authors", "training logs", "additional resources",
}  # fmt: skip
_TEMPLATE_COMMENT = re.compile(
    r"<!--+\s*(?:- \*\*|Describe |#{2,3} (?:Direct Usage|Downstream Usage|Out-of-Scope Use|Bias, Risks|Recommendations"
    r"|Glossary|Model Card Authors|Model Card Contact))"
)


def _mark_comments(sheet: Sheet) -> None:
    """Comments of the template hold no fact; others are left to be listed."""
    for first, last in sheet.structure.comments:
        if _TEMPLATE_COMMENT.match("\n".join(sheet.structure.lines[first - 1 : first + 1]).strip()):
            sheet.mark(first, last)


def _list_unread(sheet: Sheet) -> None:
    """Every line with text that no reader claimed, in runs, with its section."""
    tables = {number for table in sheet.structure.tables.values() for number in range(table.first, table.last + 1)}
    if sheet.structure.header is not None:
        _list_lines(sheet, Section((), 0, 1, 0), 1, sheet.structure.header[0] - 2, tables)
    for section in sheet.structure.sections:
        _list_lines(sheet, section, max(section.first, 1), section.last, tables)
    sheet.unread.sort(key=lambda part: part.lines)


def _list_lines(sheet: Sheet, section: Section, first: int, last: int, tables: set[int]) -> None:
    start = end = 0
    for number in range(first, last + 2):
        missed = number <= last and number not in sheet.seen and sheet.line(number).strip()
        if missed:
            start, end = start or number, number
        elif start and (number > last or number in sheet.seen):
            reason = "table outside the template" if start in tables else "text outside the template"
            sheet.unread.append(Unread(" > ".join(section.path), (start, end), reason))
            start = 0
