"""Audits of several cards as other programs read them: SARIF, GitHub annotations, JUnit, Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from workbench.audit.finding import Finding, Rule, Severity, line_ranges, spans
from workbench.audit.rules import RULES, Audit, documented
from workbench.audit.selection import fingerprint

Audits = Mapping[str, Audit]  # path of the card -> its audit
LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "note": "notice"}  # GitHub's words
SARIF = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
HOME = "https://pypi.org/project/card-workbench/"
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def github(audits: Audits) -> Iterator[str]:
    """Workflow commands that annotate a pull request, one a finding, at its first block of lines.

    Source: GitHub's "Workflow commands for GitHub Actions"; escapes as in its toolkit.
    """
    for path, found in audits.items():
        for each in found:
            first, last = spans(each.lines)[0] if each.lines else (1, 1)
            text = each.message + (f"\nFix: {each.fix.sentence}" if each.fix else "")
            where = f"file={_property(path)},line={first},endLine={last},title={_property(each.code)}"
            yield f"::{LEVELS[each.severity]} {where}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def sarif(audits: Audits) -> str:
    """A log of SARIF 2.1.0 (OASIS), with the rules that have results and their documentation."""
    rules = {rule.code: rule for rule in RULES}
    used = sorted({each.code for found in audits.values() for each in found})
    described = [{"id": code, **_described(rules[code])} for code in used]
    driver = {"name": "card-workbench", "version": version("card-workbench"), "informationUri": HOME}
    run = {
        "tool": {"driver": {**driver, "rules": described}},
        "columnKind": "unicodeCodePoints",
        "results": [
            {
                "ruleId": each.code,
                "ruleIndex": used.index(each.code),
                "level": each.severity,
                "message": {"text": each.message},
                "locations": [_location(path, *span) for span in spans(each.lines) or [(1, 1)]],
                "partialFingerprints": {"codeAndMessage/v1": fingerprint(each)},
            }
            for path, found in audits.items()
            for each in found
        ],
    }
    return json.dumps({"$schema": SARIF, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _described(rule: Rule) -> dict[str, Any]:
    about, text = rule.documentation(), documented(rule)
    return {
        "shortDescription": {"text": about.short},
        "fullDescription": {"text": about.meaning},
        "help": {"text": text, "markdown": text},
    }


def _location(path: str, first: int, last: int) -> dict[str, Any]:
    region = {"startLine": first, "endLine": last}
    return {"physicalLocation": {"artifactLocation": {"uri": quote(path.replace("\\", "/"))}, "region": region}}


def junit(audits: Audits) -> str:
    """JUnit XML: a suite a card, a case a finding; notes pass, with their text as output."""
    suites = ElementTree.Element("testsuites", name="workbench audit")
    for path, found in audits.items():
        failing = sum(each.severity != "note" for each in found)
        counts = {"tests": str(max(len(found), 1)), "failures": str(failing)}
        suite = ElementTree.SubElement(suites, "testsuite", {"name": _xml(path), **counts})
        for each in found:
            case = ElementTree.SubElement(suite, "testcase", classname=_xml(path), name=each.code)
            tag = "system-out" if each.severity == "note" else "failure"
            attributes = {} if each.severity == "note" else {"type": each.severity, "message": _xml(each.message)}
            ElementTree.SubElement(case, tag, attributes).text = _xml(_full(each))
        if not found.findings:
            ElementTree.SubElement(suite, "testcase", classname=_xml(path), name="no findings")
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _full(each: Finding) -> str:
    fix = f"\nFix: {each.fix.sentence}" if each.fix else ""
    return f"{each.message}{f' (lines {line_ranges(each.lines)})' if each.lines else ''}{fix}"


def markdown(audits: Audits) -> Iterator[str]:
    """A table a card, for a pull request or the summary of a workflow."""
    for path, found in audits.items():
        yield f"### {_cell(path)}: {found.tally()}"
        if found.findings:
            yield "\n| | code | lines | finding | fix |\n|-|-|-|-|-|"
        for each in found:
            cells = (each.message, each.fix.sentence if each.fix else "")
            yield f"| {each.severity} | {each.code} | {line_ranges(each.lines)} | {' | '.join(map(_cell, cells))} |"
        yield f"\n{_cell(found.reproducibility.verdict)}\n"


def _cell(text: str) -> str:
    """Text of a card, which must neither end the cell nor act in the page."""
    return re.sub(r"([\\`*_\[\]<>|#!&@])", r"\\\1", " ".join(_xml(text).split()))
