"""Sections of a card -> facts. One reader per section of the library's template; `Sheet` remembers what was read.

A section is known by its title alone, at any level and place, because people move and cut sections. The template is
that of sentence-transformers 3.0 to 6.x and of PyLate; the sections of cards from before 3.0 (DataLoader, Loss,
Parameters of the fit()-Method) are read too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from workbench.cards import literals
from workbench.cards.builder import CODE, STAR_BULLET, Sheet, list_unread, strip_links
from workbench.cards.card import Evaluation, LogRow, Module, Stated
from workbench.cards.datasets import read_datasets, read_fit
from workbench.cards.markdown import Fence, Row, Section, Structure, Table

Reader = Callable[[Sheet, list[Section]], None]

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
_TEMPLATE_COMMENT = re.compile(
    r"<!--+\s*(?:- \*\*|Describe |#{2,3} (?:Direct Usage|Downstream Usage|Out-of-Scope Use|Bias, Risks|Recommendations"
    r"|Glossary|Model Card Authors|Model Card Contact))"
)


def read_sections(structure: Structure) -> Sheet:
    """All sections; what no reader understands is listed in `unread`."""
    sheet = Sheet(structure)
    if structure.header is not None:
        sheet.mark(structure.header[0] - 1, structure.header[1] + 1)
    for group in _groups(structure.sections):
        reader = _READERS.get(_key(group[0]))
        if reader is not None:
            for section in group:
                sheet.mark(section.first)
            reader(sheet, group)
        elif group[0].level <= 1:
            _read_introduction(sheet, group[0])
    for first, last in structure.comments:  # those of the template hold no fact
        if _TEMPLATE_COMMENT.match("\n".join(structure.lines[first - 1 : first + 1]).strip()):
            sheet.mark(first, last)
    list_unread(sheet)
    return sheet


def _key(section: Section) -> str:
    return section.title.lower().strip(" :*")


def _groups(sections: list[Section]) -> Iterator[list[Section]]:
    """Each section alone, but a section whose reader needs its children together with them."""
    at = 0
    while at < len(sections):
        end = at + 1
        if _key(sections[at]) in _WITH_CHILDREN:
            while end < len(sections) and sections[end].level > sections[at].level:
                end += 1
        yield sections[at:end]
        at = end


def _read_introduction(sheet: Sheet, section: Section) -> None:
    if section.level == 1:
        sheet.mark(section.first)
    for number in range(section.first, section.last + 1):
        line = sheet.line(number)
        if re.match(r"(?:This is an? |It maps )", line) and ("model" in line or "maps" in line):
            sheet.mark(number)
            if found := re.search(r"(?<!\d)(\d{1,9})[- ]dimensional", line):
                sheet.state("intro_dimension", int(found.group(1)), number)
            if found := re.search(r"finetuned from \[([^\[\]]{1,300})\]", line):
                sheet.state("intro_base", found.group(1), number)


def _read_description(sheet: Sheet, group: list[Section]) -> None:
    name = ""
    for number, line in sheet.body(group):
        if bullet := _BOLD_BULLET.match(line):
            name = bullet.group(1).strip()
            sheet.description[name] = Stated(strip_links(bullet.group(2)), number)
            _describe(sheet, name.lower(), bullet.group(2), number)
        elif name and re.match(r"\s{2,}[-*] \S", line):
            stated = sheet.description[name]
            text = f"{stated.value}\n{strip_links(line.strip()[2:])}".strip("\n")
            sheet.description[name] = replace(stated, value=text)
        else:
            continue
        sheet.mark(number)


_DESCRIBED = {
    "maximum sequence length": "max_seq_length",
    "max sequence length": "max_seq_length",
    "document length": "max_seq_length",
    "output dimensionality": "output_dimension",
    "output dimension": "output_dimension",
    "embedding dimension": "output_dimension",
}


def _describe(sheet: Sheet, name: str, text: str, number: int) -> None:
    plain = strip_links(text)
    if name in ("base model", "sentence transformer body"):  # the second on cards of SetFit
        if plain and plain.lower() != "unknown":
            sheet.state("base_model", plain, number)
        if revision := _REVISION.search(text):
            sheet.state("base_revision", revision.group(1), number)
    elif name == "similarity function" and plain and plain.lower() != "none":
        sheet.state("similarity", plain, number)
    elif (fact := _DESCRIBED.get(name)) and (amount := re.match(r"\s*([\d,]+|inf)\b", text)):
        count = literals.number(amount.group(1))
        if isinstance(count, int) or (count is not None and fact == "max_seq_length"):
            sheet.state(fact, count, number)


def _read_details(sheet: Sheet, group: list[Section]) -> None:
    """A hand-made table of settings: the few that a card states elsewhere too."""
    for table in sheet.structure.tables_in(group[0].first, group[-1].last):
        if len(table.header) != 2:
            continue
        sheet.mark(table.first, table.last)
        for row in (row for row in table.rows if row.whole):
            key, text = row.cells
            sheet.description[key] = Stated(strip_links(text), row.first)
            fact = {"dimensions": "output_dimension", "max sequence length": "max_seq_length"}.get(key.lower())
            amount = literals.number(text)
            if key.lower() == "suitable score functions":
                sheet.state("similarity", strip_links(text), row.first)
            elif fact and isinstance(amount, int):
                sheet.state(fact, amount, row.first)


def _read_architecture(sheet: Sheet, group: list[Section]) -> None:
    for fence in sheet.structure.fences_in(group[0].first, group[0].last):
        if not sheet.modules:
            _read_modules(sheet, group[0], fence)


def _read_modules(sheet: Sheet, section: Section, fence: Fence) -> None:
    path: list[tuple[int, str]] = []  # indentation and name of the open containers inside a module
    for number, line in enumerate(fence.text.split("\n"), fence.first + 1):
        if top := re.match(r"(\w+)\(\s*$", line):
            sheet.pipeline = top.group(1)
        elif module := _MODULE.match(line):
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
    if found := _WITH_MODEL.match(rest):
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


def _read_evaluation(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        facts = {}
        for number, line in sheet.body([section]):
            if bullet := STAR_BULLET.match(line):
                facts[bullet.group(1).lower().removesuffix("s")] = (bullet.group(2), number)
        if section is group[0] and not facts:
            continue
        for table in sheet.structure.tables_in(section.first, section.last):
            first = table.header[0].strip("* ").lower() if table.header else ""
            if first == "metric":
                _read_metrics(sheet, section, table, facts)
                break
            if first == "label":
                _read_label_metrics(sheet, section, table)


def _read_label_metrics(sheet: Sheet, section: Section, table: Table) -> None:
    """The table of SetFit: one row for each label or for all, one column for each metric."""
    metrics: dict[str, float] = {}
    lines: dict[str, int] = {}
    for row in table.rows:
        label, *cells = (cell.strip("* ") for cell in row.cells)
        for head, text in zip(table.header[1:], cells, strict=False):
            name = head.lower() if label.lower() == "all" else f"{head.lower()} of {label}"
            if (amount := literals.real(text)) is None:
                sheet.miss(section, row.first, row.last, f"metric whose value is no number: {text[:40]!r}")
            else:
                metrics[name], lines[name] = amount, row.first
    sheet.mark(table.first, table.last)
    span = (section.first, table.last)
    main = next(iter(metrics), None)
    sheet.evaluations.append(Evaluation(None, section.title, (), {}, metrics, main, span, metric_lines=lines))


def _read_metrics(sheet: Sheet, section: Section, table: Table, facts: Mapping[str, tuple[str, int]]) -> None:
    names: tuple[str, ...] = ()
    if "dataset" in facts:
        text, number = facts["dataset"]
        names = tuple(re.findall(r"`([^`]*)`", text)) or (strip_links(text),)
        sheet.mark(number)
    evaluator = None
    if "evaluated with" in facts:
        text, number = facts["evaluated with"]
        code = CODE.search(text)
        evaluator = code.group(1) if code else strip_links(text).removesuffix("with these parameters:").strip() or None
        sheet.mark(number)
    parameters: Mapping[str, Any] = {}
    for fence in sheet.structure.fences_in(section.first, table.first):
        parameters = sheet.parameters(section, fence) or parameters
    sheet.mark(table.first, table.last)
    for at, column in enumerate(table.header[1:], 1):
        label = column.strip("*")
        measured_on = names if len(table.header) == 2 else (label,) if label else ()
        values = _read_column(sheet, section, table, at)
        lines = (section.first, table.last)
        sheet.evaluations.append(Evaluation(evaluator, section.title, measured_on, parameters, **values, lines=lines))


def _read_column(sheet: Sheet, section: Section, table: Table, at: int) -> dict[str, Any]:
    """Fields of an Evaluation from one column of its table."""
    metrics: dict[str, float] = {}
    gains: dict[str, float] = {}
    lines: dict[str, int] = {}
    main = None
    for row in table.rows:
        if at >= len(row.cells):
            if at == 1 or len(row.cells) > 1:
                sheet.miss(section, row.first, row.last, "table row with too few cells")
            continue
        name, text = row.cells[0].strip("* "), row.cells[at].strip("* ")
        shown, gain = _score(text)
        amount = literals.number(shown)
        if amount is None or not name:
            sheet.miss(section, row.first, row.last, f"metric whose value is no number: {text[:40]!r}")
            continue
        metrics[name], lines[name] = float(amount), row.first
        if gain is not None:
            gains[name] = float(gain)
        if row.cells[0].startswith("**"):
            main = main or name
    return {"metrics": metrics, "gains": gains, "metric_lines": lines, "main_metric": main}


def _score(text: str) -> tuple[str, float | None]:
    """The value in a cell, and the gain of a reranker beside it: "0.53 (+0.11)"."""
    found = _SCORE.match(text)
    return (found[1], literals.number(found[2])) if found else (text, None)


def _read_hyperparameters(sheet: Sheet, group: list[Section]) -> None:
    target = sheet.non_default if group[0].title.lower().startswith("non-default") else sheet.hyperparameters
    name, text, start = "", "", 0
    for number, line in (*sheet.body(group), (0, "")):
        bullet = _CODE_BULLET.match(line) or _ARGUMENT_BULLET.match(line)
        fold = line.strip() in ("<details><summary>Click to expand</summary>", "</details>", "<details>")
        if name and (bullet or fold or not line.strip()):
            target.setdefault(name, Stated(literals.value(text), start))
            name = ""
        if bullet:
            name, text, start = bullet.group(1), bullet.group(2), number
        elif name:
            text += "\n" + line
        if bullet or name or fold:
            sheet.mark(number)


def _read_log(sheet: Sheet, group: list[Section]) -> None:
    for section in group:
        for table in sheet.structure.tables_in(section.first, section.last):
            heads = [head.strip("* ") for head in table.header]
            if "Step" in heads or "Epoch" in heads:
                sheet.mark(table.first, table.last)
                for row in table.rows:
                    _read_log_row(sheet, section, row, heads)
    _mark_lines(sheet, group, r"\s*(?:\* The bold row denotes|</?details>)")


def _read_log_row(sheet: Sheet, section: Section, row: Row, heads: list[str]) -> None:
    amounts: dict[str, float | None] = {}
    gains: dict[str, float] = {}
    wrong = None if row.whole else "log row with other cells than its heading"
    saved = False
    for head, cell in zip(heads, row.cells, strict=False):
        text = cell
        if len(cell) > 4 and cell.startswith("**") and cell.endswith("**"):
            text, saved = cell[2:-2].strip(), True
        text, gain = _score(text)
        if gain is not None:
            gains[head] = float(gain)
        amounts[head] = None if text in ("-", "") else literals.real(text.rstrip("*"))
        if amounts[head] is None and text not in ("-", ""):
            wrong = f"log cell that is no number: {text[:40]!r}"
    if wrong:
        sheet.miss(section, row.first, row.last, wrong)
    if row.whole:
        own = "Validation Loss" if "Validation Loss" in heads else "loss"
        epoch, step = amounts.pop("Epoch", None), amounts.pop("Step", None)
        step = None if step is None or not math.isfinite(step) else int(step)
        epoch = None if epoch is None or not math.isfinite(epoch) else epoch
        losses = amounts.pop("Training Loss", None), amounts.pop(own, None)
        sheet.log.append(LogRow(epoch, step, *losses, amounts, saved, row.first, gains=gains))


def _read_times(sheet: Sheet, group: list[Section]) -> None:
    _mark_lines(sheet, group, "Carbon emissions were measured")
    for number, line in sheet.body(group):
        if bullet := _BOLD_BULLET.match(line):
            sheet.training_time[bullet.group(1)] = Stated(strip_links(bullet.group(2)), number)
            sheet.mark(number)


def _read_versions(sheet: Sheet, group: list[Section]) -> None:
    for number, line in sheet.body(group):
        if bullet := _VERSION_BULLET.match(line) or _PLAIN_BULLET.match(line):
            if bullet.group(2).strip():
                sheet.versions[bullet.group(1).strip()] = Stated(bullet.group(2).strip(), number)
            sheet.mark(number)


def _read_citations(sheet: Sheet, group: list[Section]) -> None:
    _mark_all(sheet, group)
    for section in group:
        if section.level >= group[0].level + 2:
            sheet.citations.extend(part for part in re.split(r", | and ", section.title) if part)


def _mark_all(sheet: Sheet, group: list[Section]) -> None:
    sheet.mark(group[0].first, group[-1].last)


def _mark_lines(sheet: Sheet, group: list[Section], pattern: str) -> None:
    """Mark the lines of the template that state no fact."""
    for number, line in sheet.body(group):
        if re.match(pattern, line):
            sheet.mark(number)


_READERS: dict[str, Reader] = {
    "model description": _read_description,
    "model details": _read_description,
    "technical details": _read_details,
    "full model architecture": _read_architecture,
    "evaluation": _read_evaluation,
    "evaluation results": partial(_mark_lines, pattern="For an automated evaluation of this model"),  # before 3.0
    **{f"{role} {noun}": read_datasets for role in ("training", "evaluation") for noun in ("dataset", "datasets")},
    "non-default hyperparameters": _read_hyperparameters,
    "all hyperparameters": _read_hyperparameters,
    "training hyperparameters": _read_hyperparameters,
    "training details": partial(_mark_lines, pattern="(?!)"),  # a heading without text of its own
    "training logs": _read_log,
    "training results": _read_log,
    "training": read_fit,
    "environmental impact": _read_times,
    "training hardware": _read_times,
    "training time": _read_times,
    "framework versions": _read_versions,
    "citation": _read_citations,
    "usage": _mark_all,
    "usage (sentence-transformers)": _mark_all,
    "usage (huggingface transformers)": _mark_all,
    "evaluation by card workbench": _mark_all,  # what `workbench report --card` adds
    "how this card differs from the original": _mark_all,
    "model sources": _mark_all,
    "additional resources": _mark_all,
    "citing & authors": _mark_all,
}
_WITH_CHILDREN = {
    "evaluation", "training dataset", "training datasets", "evaluation dataset", "evaluation datasets", "usage",
    "citation", "citing & authors", "training logs", "additional resources", "how this card differs from the original",
}  # fmt: skip
