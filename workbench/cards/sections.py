"""Sections of a card -> facts. One reader per section of the library's template; `Sheet` remembers what was read.

A section is known by its title alone, at whatever level and place it stands, because people move and cut sections.
The template is that of sentence-transformers 3.0 to 6.x and of PyLate; the sections of cards from before 3.0
(DataLoader, Loss, Parameters of the fit()-Method) are read too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from workbench.cards import literals
from workbench.cards.builder import CODE, STAR_BULLET, Sheet, block, list_unread, unlinked
from workbench.cards.card import Evaluation, LogRow, Module, Stated
from workbench.cards.datasets import read_datasets, read_fit
from workbench.cards.markdown import Fence, Section, Structure, Table

_BOLD_BULLET = re.compile(r"\s*[-*] \*\*(.{1,80}?):?\*\*:?\s*(.*)$")
_PLAIN_BULLET = re.compile(r"\s*[-*] ([^:`*\[]{1,60}):\s*(.*)$")
_CODE_BULLET = re.compile(r"\s*[-*] `([^`]{1,120})`: ?(.*)$")
_ARGUMENT_BULLET = re.compile(r"\s*[-*] ([a-z][a-z0-9_]{1,60}): ?(.*)$")  # as the plain Trainer writes them
_VERSION_BULLET = re.compile(r"\s*[-*] (Transformers|Py[Tt]orch|Datasets|Tokenizers|PEFT|Accelerate) (\d\S*)\s*$")
_REVISION = re.compile(r"<!--\s*at revision ([^\s>]+)\s*-->")
_MODULE = re.compile(r"^  \((\w+)\): (\w+)(.*)$")
_CHILD = re.compile(r"^ {3,}\(([^)]*)\): (.*)$")
_WITH_MODEL = re.compile(r"^(\(.*\)) with Transformer model: (\S+)\s*$")
_SCORE = re.compile(r"(\S+)\s*\(([-+][\d.]+(?:e[-+]?\d+)?|nan)\)$")


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
    list_unread(sheet)
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
                found = re.search(r"(?<!\d)(\d{1,9})[- ]dimensional", line)
                if found:
                    sheet.state("intro_dimension", int(found.group(1)), number)
                found = re.search(r"finetuned from \[([^\[\]]{1,300})\]", line)
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
                sheet.description[name] = Stated(unlinked(bullet.group(2)), number)
                sheet.mark(number)
                _describe(sheet, name.lower(), bullet.group(2), number)
            elif name and re.match(r"\s{2,}[-*] \S", line):
                listed = [sheet.description[name].value, unlinked(line.strip()[2:])]
                sheet.description[name] = Stated("\n".join(part for part in listed if part), line_of_name)
                sheet.mark(number)


def _describe(sheet: Sheet, name: str, text: str, number: int) -> None:
    plain = unlinked(text)
    amount = re.match(r"\s*([\d,]+|inf)\b", text)
    count = literals.number(amount.group(1)) if amount else None
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
                sheet.description[key] = Stated(unlinked(text), row.first)
                fact = names.get(key.lower())
                amount = literals.number(text)
                if fact == "similarity":
                    sheet.state(fact, unlinked(text), row.first)
                elif fact and isinstance(amount, int):
                    sheet.state(fact, amount, row.first)


# -- architecture ----------------------------------------------------------------------------------------------------


def _read_architecture(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        for fence in sheet.structure.fences_in(section.first, section.last):
            if not sheet.modules:
                _read_modules(sheet, section, fence)


def _read_modules(sheet: Sheet, section: Section, fence: Fence) -> None:
    path: list[tuple[int, str]] = []  # indentation and name of the open containers inside a module
    for offset, line in enumerate(fence.text.split("\n")):
        number = fence.first + 1 + offset
        top = re.match(r"(\w+)\(\s*$", line)
        module = _MODULE.match(line)
        if top:
            sheet.pipeline = top.group(1)
        elif module:
            path = []
            sheet.modules.append(_module(len(sheet.modules), module.group(2), module.group(3), number))
        elif line.strip(" ),") and sheet.modules:
            last = sheet.modules[-1]
            sheet.modules[-1] = replace(last, parameters={**last.parameters, **_inside(line, path)})
        elif line.strip(" ),"):
            sheet.miss(section, number, number, "architecture line that is no module")
    sheet.mark(fence.first, fence.last)
    for first in sheet.modules[:1]:
        longest = first.parameters.get("max_seq_length")
        if isinstance(longest, int) and first.line is not None:
            sheet.state("module_max_seq_length", longest, first.line)


def _inside(line: str, path: list[tuple[int, str]]) -> dict[str, Any]:
    """What a line inside a module says: a part under its dotted name, or settings; a container only opens a level."""
    child = _CHILD.match(line)
    if child is None:
        return literals.call(f"f({line.strip().rstrip(',')})")[1]
    indent = len(line) - len(line.lstrip())
    while path and path[-1][0] >= indent:
        path.pop()
    path.append((indent, child.group(1)))
    printed = child.group(2).rstrip()
    return {} if printed.endswith("(") else {".".join(name for _, name in path): printed}


def _module(index: int, kind: str, rest: str, line: int) -> Module:
    """One module from the text after its class, in any of the three forms that the library has printed."""
    architecture = None
    found = _WITH_MODEL.match(rest)
    if found:
        rest, architecture = found.group(1), found.group(2)
    inside = rest.strip()
    parameters: Mapping[str, Any] = {}
    if inside.startswith("({"):
        read = literals.literal(inside[1 : inside.rfind(")")] if ")" in inside else inside[1:])
        parameters = read if isinstance(read, dict) else {"text": inside}
    elif len(inside) > 2:
        parameters = literals.call(kind + inside)[1]
    if architecture is None and isinstance(parameters.get("architecture"), str):
        architecture = parameters["architecture"]
    return Module(index, kind, parameters, architecture, line)


# -- evaluation ------------------------------------------------------------------------------------------------------


def _read_evaluation(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        facts = {}
        for number in range(section.first + 1, section.last + 1):
            bullet = STAR_BULLET.match(sheet.line(number))
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
        names = tuple(re.findall(r"`([^`]*)`", facts["dataset"][0])) or (unlinked(facts["dataset"][0]),)
        sheet.mark(facts["dataset"][1])
    evaluator = None
    if "evaluated with" in facts:
        text, number = facts["evaluated with"]
        code = CODE.search(text)
        evaluator = code.group(1) if code else unlinked(text).removesuffix("with these parameters:").strip() or None
        sheet.mark(number)
    parameters: Mapping[str, Any] = {}
    for fence in sheet.structure.fences_in(section.first, table.first):
        parameters = block(sheet, section, fence) or parameters
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
        amount = literals.number(score.group(1) if score else text)
        if amount is None or not name:
            sheet.miss(section, row.first, row.last, f"metric whose value is no number: {text[:40]!r}")
            continue
        metrics[name] = float(amount)
        lines[name] = row.first
        gain = literals.number(score.group(2)) if score else None
        if gain is not None:
            gains[name] = float(gain)
        if row.cells[0].startswith("**"):
            main = main or name
    return metrics, gains, lines, main


# -- hyperparameters, log, times, versions ---------------------------------------------------------------------------


def _read_hyperparameters(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        target = sheet.non_default if section.title.lower().startswith("non-default") else sheet.hyperparameters
        name, text, start = "", "", 0
        for number in range(section.first + 1, section.last + 2):
            line = sheet.line(number) if number <= section.last else ""
            bullet = _CODE_BULLET.match(line) or _ARGUMENT_BULLET.match(line)
            fold = line.strip() in ("<details><summary>Click to expand</summary>", "</details>", "<details>")
            if name and (bullet or fold or not line.strip()):
                target.setdefault(name, Stated(literals.value(text), start))
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
        gains: dict[str, float] = {}
        wrong = None if row.whole else "log row with other cells than its heading"
        bold = 0
        for head, cell in zip(heads, row.cells, strict=False):
            text = cell
            if len(cell) > 4 and cell.startswith("**") and cell.endswith("**"):
                text, bold = cell[2:-2].strip(), bold + 1
            score = _SCORE.match(text)
            if score and (gain := literals.number(score.group(2))) is not None:
                text, gains[head] = score.group(1), float(gain)
            amounts[head] = None if text in ("-", "") else literals.number(text.rstrip("*"))
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
                gains=gains,
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
                sheet.training_time[bullet.group(1)] = Stated(unlinked(bullet.group(2)), number)
                sheet.mark(number)
            elif line.startswith("Carbon emissions were measured"):
                sheet.mark(number)


def _read_versions(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        for number in range(section.first + 1, section.last + 1):
            bullet = _VERSION_BULLET.match(sheet.line(number)) or _PLAIN_BULLET.match(sheet.line(number))
            if bullet:
                if bullet.group(2).strip():
                    sheet.versions[bullet.group(1).strip()] = Stated(bullet.group(2).strip(), number)
                sheet.mark(number)


def _read_citations(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        sheet.mark(section.first, section.last)
        if section.level >= group[0].level + 2:
            sheet.citations.extend(part for part in re.split(r", | and ", section.title) if part)


# -- what nobody read ------------------------------------------------------------------------------------------------


def _mark_all(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        sheet.mark(section.first, section.last)


def _read_benchmark_note(sheet: Sheet, group: list[Section]) -> None:
    """`## Evaluation Results` of cards from before 3.0: a sentence that points to a benchmark, the same in all."""
    for section in group:
        for number in range(section.first + 1, section.last + 1):
            if sheet.line(number).startswith("For an automated evaluation of this model"):
                sheet.mark(number)


def _mark_heading(sheet: Sheet, group: list[Section]) -> None:
    """A heading of the template that has no text of its own."""


_READERS: dict[str, Callable[[Sheet, list[Section]], None]] = {
    "model description": _read_description,
    "technical details": _read_details,
    "full model architecture": _read_architecture,
    "evaluation": _read_evaluation,
    "training dataset": read_datasets,
    "training datasets": read_datasets,
    "evaluation dataset": read_datasets,
    "evaluation datasets": read_datasets,
    "non-default hyperparameters": _read_hyperparameters,
    "all hyperparameters": _read_hyperparameters,
    "training logs": _read_log,
    "training results": _read_log,
    "environmental impact": _read_times,
    "training hardware": _read_times,
    "training time": _read_times,
    "framework versions": _read_versions,
    "citation": _read_citations,
    "training": read_fit,
    "evaluation results": _read_benchmark_note,
    "usage": _mark_all,
    "usage (sentence-transformers)": _mark_all,
    "usage (huggingface transformers)": _mark_all,
    "model sources": _mark_all,
    "additional resources": _mark_all,
    "citing & authors": _mark_all,
    "model details": _read_description,
    "training details": _mark_heading,
    "training hyperparameters": _read_hyperparameters,
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
