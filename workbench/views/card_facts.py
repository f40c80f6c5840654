"""What a card states, with its lines, and the fields of its recipe: as text, each value with its source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench.audit.rules import Audit, audit
from workbench.cards.card import Card
from workbench.cards.inference import infer
from workbench.recipe.schema import Origin, Recipe, leaves
from workbench.views.records import FindingLines, Sourced
from workbench.views.theme import shorten

SOURCE_LINES = 3000  # of a card, at most, on a screen
LIMIT = 300  # characters of a value


def card_facts(card: Card) -> list[Sourced]:
    """What the card states about its model and its training."""
    facts = [_fact("Kind of model", card.kind)]
    for name, stated in (
        ("Base model", card.base_model),
        ("Similarity", card.similarity),
        ("Longest input (tokens)", card.max_seq_length),
        ("Output dimension", card.output_dimension),
    ):
        if stated is not None:
            facts.append(_fact(name, stated.value, stated.line))
    if card.modules:
        chain = " → ".join(module.type for module in card.modules)
        facts.append(_fact("Modules", chain, *(module.line for module in card.modules)))
    for dataset in card.datasets:
        role = "Training rows" if dataset.role == "train" else "Evaluation rows"
        size = "size not stated" if dataset.size is None else f"{dataset.size:,}"
        columns = f" ({', '.join(dataset.columns)})" if dataset.columns else ""
        first, last = dataset.lines or (1, 0)
        facts.append(_fact(role, f"{dataset.name or 'unnamed dataset'}: {size}{columns}", *range(first, last + 1)))
        if dataset.loss is not None and dataset.role == "train":
            losses = " around ".join(
                node.name
                + (f"({', '.join(f'{k}={v}' for k, v in node.parameters.items())})" if node.parameters else "")
                for node in dataset.loss.chain()
            )
            facts.append(_fact("Loss", losses, dataset.loss.line))
    for part, inferred in zip(card.evaluations, infer(card).metrics, strict=True):
        if inferred.resolution is not None:
            name = f"Resolution: {', '.join(part.datasets) or part.name}"
            line = part.metric_lines.get(inferred.resolution.metric)
            facts.append(_fact(name, inferred.resolution.sentence, line))
    facts += [_fact(f"Set: {name}", stated.value, stated.line) for name, stated in card.non_default.items()]
    return facts + [_fact(f"Version: {name}", stated.value, stated.line) for name, stated in card.versions.items()]


def _fact(name: str, value: object, *lines: int | None) -> Sourced:
    return Sourced(name, _short_text(value), "card", tuple(line for line in lines if line is not None))


def _short_text(value: object) -> str:
    return shorten(field_text(value) if isinstance(value, Mapping | list | tuple) else value, LIMIT)


def card_metrics(card: Card) -> list[tuple[str, str, float, int | None]]:
    """(measured on, metric, value, line) of every metric of the card."""
    return [
        (shorten(", ".join(part.datasets) or part.name, LIMIT), metric, value, part.metric_lines.get(metric))
        for part in card.evaluations
        for metric, value in part.metrics.items()
    ]


def needed_facts(audit: Audit) -> list[Sourced]:
    """What running the recipe again needs; the source is a status of `reproducibility`: on the card, missing, ..."""
    facts = ((fact, "" if fact.value is None else _short_text(fact.value)) for fact in audit.reproducibility.facts)
    return [Sourced(f.name, value, f.status, tuple(f.lines), shorten(f.note, LIMIT)) for f, value in facts]


def missing_facts(audit: Audit) -> str:
    """Whether the training can be run again, and which facts are missing for it."""
    found = audit.reproducibility
    said, colon, _ = found.verdict.partition(":")
    needed = [fact for fact in found.facts if fact.status != "not needed"]
    missing = [fact.name for fact in needed if fact.status == "missing"]
    if not colon:
        return found.verdict
    known = f"({len(needed) - len(missing)} of {len(needed)} facts known)"
    return f"{said}. Missing: {', '.join(missing) or 'nothing'} {known}"


def card_findings(card: Card) -> tuple[FindingLines, ...]:
    """The audit's findings with the lines that prove them."""
    lines = {number: shorten(text, 200) for number, text in enumerate(card.lines, start=1)}
    return tuple((each, tuple((line, lines[line]) for line in each.lines if line in lines)) for each in audit(card))


def excerpt(card: Card, notes: Mapping[int, str], around: int | None = None) -> list[tuple[int, str, str]]:
    """(number, text, note) of the card's lines in `notes` and of `around` lines beside each; None: of every line.

    A line without a note has an empty one; a marked one without words has " ".
    """
    shown = []
    for line, text in enumerate(card.lines, start=1):
        if line <= SOURCE_LINES if around is None else any(abs(line - noted) <= around for noted in notes):
            indent = min(len(text) - len(text.lstrip(" ")), 40)
            shown.append((line, " " * indent + shorten(text, 400), notes.get(line, "")))
    return shown


def card_lines(card: Card, lines: Iterable[int]) -> str:
    """The card's text at `lines` with line numbers; a gap is an ellipsis."""
    shown: list[str] = []
    last = None
    for line, text, _ in excerpt(card, dict.fromkeys(lines, ""), around=0):
        if last is not None and line > last + 1:
            shown.append("   …")
        shown.append(f"{line:>4}  {text}")
        last = line
    return "\n".join(shown)


def line_notes(audit: Audit) -> dict[int, str]:
    """Line of a card -> codes of the findings about it."""
    found: dict[int, str] = {}
    for line, code in ((line, finding.code) for finding in audit for line in finding.lines):
        found[line] = f"{found[line]}, {code}" if line in found else code
    return found


def recipe_fields(recipe: Recipe, other: Recipe | None = None) -> tuple[Sourced, ...]:
    """Every field with its source, and its value in the `other` recipe, corrected (with the reason) or as it was
    trained; not an empty part without a source."""
    values = leaves(recipe)
    others = leaves(other) if other is not None else {}
    fields = []
    for path in dict.fromkeys([*values, *others]):
        value = shorten(field_text(values.get(path)), LIMIT)
        beside = shorten(field_text(others.get(path)), LIMIT) if other is not None else None
        origin = origin_of(recipe.provenance, path)
        if origin is None and value == "–" and beside in (None, "–"):
            continue
        source, lines, note = (origin.source, origin.lines, origin.note) if origin else ("unknown", (), "")
        reason = other.provenance.get(path) if other is not None and beside != value else None
        if reason is not None and reason.source == "finding" and reason.note != note:
            note = " · ".join(part for part in (note, f"corrected: {reason.note}") if part)
        fields.append(Sourced(path, value, source, lines, shorten(note, LIMIT), beside))
    return tuple(fields)


def origin_of(provenance: Mapping[str, Origin], path: str) -> Origin | None:
    """The origin of a field, or of the part that it is in: a mapping such as the columns has one for all its keys."""
    while path and path not in provenance:
        path = path.rpartition(".")[0]
    return provenance.get(path)


def field_text(value: Any) -> str:
    """A field of a recipe or card as text; a dash for nothing.

    >>> field_text((512, 256)), field_text({"query": "ask: "}), field_text(True), field_text(None), field_text(3.0)
    ('512, 256', 'query ask: ', 'yes', '–', '3')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {field_text(inner)}" for key, inner in value.items()) or "–"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(field_text, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    return "–" if value is None else str(value)
