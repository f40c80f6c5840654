"""Lines of a card -> its structure: header, sections, tables, fenced blocks, comments; every part with its lines.

`markdown-it-py` finds headings, fences and HTML blocks. Tables are taken out before and split here, because cells of
real cards hold what breaks every Markdown parser: unescaped pipes, bare carriage returns (the row then goes on in the
next line), lines that look like headings. The generator pads its columns, so the places of the pipes in the line
under the heading tell where a cell ends whatever it holds.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_DELIMITER = re.compile(r"^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$")
_OPEN_ROW_ENDS = re.compile(
    r"^(?:\s{0,3}(?:```|</details>|<!--)|[*-] (?:Loss|Samples|Size|Columns|Approximate|Evaluated)\b|#{2,4} )"
)
_CODE_CELLS = re.compile(r"</code>\s*\|\s*(?=<code>)")
_LONGEST_ROW = 400  # lines of one row whose cells hold line ends


@dataclass(frozen=True)
class Row:
    """One row of a table; `cells` are stripped and unescaped."""

    cells: tuple[str, ...]
    first: int
    last: int
    whole: bool = True  # False where the row has other cells than the heading


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    first: int
    last: int


@dataclass(frozen=True)
class Fence:
    text: str
    info: str
    first: int  # line of the opening mark; the text starts on the next
    last: int


@dataclass
class Section:
    """A heading and the lines down to the next heading of any level."""

    path: tuple[str, ...]  # titles from the outermost heading to this one
    level: int
    first: int  # the heading's line; 0 for what stands before any heading
    last: int

    @property
    def title(self) -> str:
        return self.path[-1] if self.path else ""


@dataclass
class Structure:
    """Where everything stands. Lines are 1-based: `line(1)` is the first."""

    lines: list[str]
    header: tuple[int, int] | None  # first and last line of the YAML, without its marks
    header_closed: bool
    sections: list[Section] = field(default_factory=list)
    tables: dict[int, Table] = field(default_factory=dict)  # by first line
    fences: dict[int, Fence] = field(default_factory=dict)  # by first line
    comments: list[tuple[int, int]] = field(default_factory=list)

    def line(self, number: int) -> str:
        return self.lines[number - 1]

    def tables_in(self, first: int, last: int) -> Iterator[Table]:
        return (table for number, table in self.tables.items() if first <= number <= last)

    def fences_in(self, first: int, last: int) -> Iterator[Fence]:
        return (fence for number, fence in self.fences.items() if first <= number <= last)


def find_structure(lines: list[str]) -> Structure:
    """The structure of a card's lines; never fails."""
    header, start, closed = _find_header(lines)
    masked = [""] * start + lines[start:]
    blocks = _mask_rows(masked, start)
    structure = Structure(lines, header, closed)
    fenced = _parse_blocks(structure, masked)
    for first, last in blocks:
        if not fenced[first]:
            table = _read_table(lines, first, last)
            if table is not None:
                structure.tables[table.first] = table
    return structure


def _find_header(lines: list[str]) -> tuple[tuple[int, int] | None, int, bool]:
    """Lines of the YAML header, lines to skip (its marks too), and whether it is closed."""
    for index, line in enumerate(lines[:50]):
        if line.rstrip() == "---" and _starts_yaml(lines, index + 1):
            for end in range(index + 1, len(lines)):
                if lines[end].rstrip() == "---":
                    return (index + 2, end), end + 1, True
            end = next((at for at in range(index + 1, len(lines)) if lines[at].startswith("# ")), len(lines))
            return (index + 2, end), end, False
    return None, 0, False


def _starts_yaml(lines: list[str], start: int) -> bool:
    for line in lines[start : start + 20]:
        if line.strip() and not line.startswith("#"):
            return re.match(r"[A-Za-z_][\w-]*\s*:(?:\s|$)", line) is not None
    return False


def _mask_rows(masked: list[str], start: int) -> list[tuple[int, int]]:
    """Blank table rows in `masked`; the runs of rows as (first, last) lines, 1-based."""
    runs: list[tuple[int, int]] = []
    index = start
    while index < len(masked):
        if not masked[index].lstrip(" ").startswith("|"):
            index += 1
            continue
        first = index
        while index < len(masked) and masked[index].lstrip(" ").startswith("|"):
            end = _row_end(masked, index)
            for at in range(index, end + 1):
                masked[at] = ""
            index = end + 1
        runs.append((first + 1, index))
    return runs


def _row_end(lines: list[str], index: int) -> int:
    """Index of the row's last line: a row goes on where its last cell is still open."""
    opened = 0
    fallback = index
    for at in range(index, min(index + _LONGEST_ROW, len(lines))):
        line = lines[at]
        if at > index and _OPEN_ROW_ENDS.match(line):
            break
        opened += line.count("<code>") - line.count("</code>")
        if line.rstrip().endswith("|"):
            if opened <= 0:
                return at
            if fallback == index and at == index:
                fallback = at
    return fallback


def _parse_blocks(structure: Structure, masked: list[str]) -> list[bool]:
    """Fill sections, fences and comments; for each line whether it stands in a fence or comment."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"maxNesting": 20})
    parser.core.ruler.enableOnly(["normalize", "block"])
    parser.disable(["code", "reference"])
    fenced = [False] * (len(masked) + 2)
    heads: list[tuple[int, int, str]] = []
    tokens = parser.parse("\n".join(line.replace("\0", " ") for line in masked))
    for at, token in enumerate(tokens):
        if token.map is None:
            continue
        first, last = token.map[0] + 1, token.map[1]
        if token.type == "fence":
            lines = structure.lines[first:last]
            closed = bool(lines) and lines[-1].strip() == token.markup
            text = token.content if not closed or masked[first:last] == lines else "\n".join(lines[:-1])
            structure.fences[first] = Fence(text, token.info.strip(), first, last)
        elif token.type == "html_block" and token.content.lstrip().startswith("<!--"):
            structure.comments.append((first, last))
        elif token.type == "heading_open" and token.level == 0:
            heads.append((first, int(token.tag[1]), tokens[at + 1].content.strip()))
            continue
        else:
            continue
        fenced[first : last + 1] = [True] * (last + 1 - first)
    _make_sections(structure, heads)
    return fenced


def _make_sections(structure: Structure, heads: list[tuple[int, int, str]]) -> None:
    start = 1 if structure.header is None else structure.header[1] + 1
    end = len(structure.lines)
    stack: list[tuple[int, str]] = []
    structure.sections.append(Section((), 0, start, heads[0][0] - 1 if heads else end))
    for at, (line, level, title) in enumerate(heads):
        while stack and stack[-1][0] >= level:
            stack.pop()
        stack.append((level, title))
        last = heads[at + 1][0] - 1 if at + 1 < len(heads) else end
        structure.sections.append(Section(tuple(part for _, part in stack), level, line, last))


def _read_table(lines: list[str], first: int, last: int) -> Table | None:
    """The table in lines `first` to `last`, or None where no delimiter line follows the heading."""
    if last <= first or not _DELIMITER.match(lines[first]) or "-" not in lines[first]:
        return None
    head, rule = lines[first - 1].rstrip(), lines[first].rstrip()
    places = [at for at, character in enumerate(rule) if character == "|"]
    header = _cells_at(head, places) or _split_pipes(head)
    rows = []
    number = first + 2
    while number <= last:
        end = min(_row_end(lines, number - 1) + 1, last)
        cells = _split_row("\n".join(lines[number - 1 : end]), places, len(header))
        rows.append(Row(tuple(cells), number, end, len(cells) == len(header)))
        number = end + 1
    return Table(tuple(header), tuple(rows), first, last)


def _split_row(text: str, places: list[int], count: int) -> list[str]:
    """Cells of a row: at the places of the pipes if they are there, else between `<code>` cells, else at every pipe."""
    cells = _cells_at(text.rstrip(), places)
    if cells is not None:
        return cells
    cells = _split_pipes(text)
    if len(cells) != count:
        coded = _CODE_CELLS.split(text.strip().strip("|").strip())
        if len(coded) == count:
            parts = [part if part.endswith("</code>") else part + "</code>" for part in coded]
            return [_unescape(part) for part in parts]
    return cells


def _cells_at(text: str, places: list[int]) -> list[str] | None:
    if len(places) < 2 or len(text) != places[-1] + 1 or any(text[at] != "|" for at in places):
        return None
    cells = [text[start + 1 : end] for start, end in itertools.pairwise(places)]
    if any(cell and (cell[0] != " " or cell[-1] != " ") for cell in cells):
        return None
    return [_unescape(cell.strip(" ")) for cell in cells]


def _split_pipes(text: str) -> list[str]:
    text = text.strip()
    text = text[1:] if text.startswith("|") else text
    text = text[:-1] if text.endswith("|") and not text.endswith("\\|") else text
    return [_unescape(cell.strip()) for cell in re.split(r"(?<!\\)\|", text)]


def _unescape(cell: str) -> str:
    return cell.replace("\\|", "|")
