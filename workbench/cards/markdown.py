"""Lines of a card -> its structure: header, sections, tables, fenced blocks, comments; every part with its lines.

`markdown-it-py` finds headings, fences and HTML blocks. Tables are taken out before and split here, because cells of
real cards hold what breaks every Markdown parser: unescaped pipes, bare carriage returns (the row then continues on the
next line), lines that look like headings. The generator pads its columns, so the positions of the pipes in the line
under the heading show where a cell ends, whatever it holds.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_OPEN_ROW_ENDS = re.compile(
    r"^(?:\s{0,3}(?:```|</details>|<!--)|[*-] (?:Loss|Samples|Size|Columns|Approximate|Evaluated)\b"
    r"|#{2,4} (?:Training|Evaluation|Environmental|Framework|Additional|Citation|Non-Default|All|Unnamed)\b)"
)
_CODE_CELLS = re.compile(r"</code>\s*\|\s*(?=<code>)")
_KEY = re.compile(r"[A-Za-z_][\w-]*\s*:(?:\s|$)")
_LONGEST_ROW = 60  # lines of one row whose cells hold line ends
_MOST_LINES = 15_000  # lines outside header and tables that are taken apart; a real card has a few hundred
_MOST_AHEAD = 20_000  # lines that may be looked at in one card to find where such rows end


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
    first: int  # the heading's line; 0 for what comes before any heading
    last: int

    @property
    def title(self) -> str:
        return self.path[-1] if self.path else ""


@dataclass
class Structure:
    """Where everything is. Lines are 1-based: `line(1)` is the first."""

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
        """Tables that start in these lines."""
        return (self.tables[number] for number in range(first, last + 1) if number in self.tables)

    def fences_in(self, first: int, last: int) -> Iterator[Fence]:
        """Fenced blocks that start in these lines."""
        return (self.fences[number] for number in range(first, last + 1) if number in self.fences)


def find_structure(lines: list[str]) -> Structure:
    """The structure of a card's lines; never fails."""
    header, start, closed = _find_header(lines)
    masked = [""] * start + lines[start:]
    runs = _mask_rows(masked, start)
    structure = Structure(lines, header, closed)
    fenced = _parse_blocks(structure, masked)
    for run in runs:
        if run[0][0] not in fenced and (table := _read_table(lines, run)):
            structure.tables[table.first] = table
    return structure


def second_card(structure: Structure) -> int | None:
    """First line of a second card in the same file: a heading of level 1 with a description of another model."""
    heads: list[int] = []
    for at, section in enumerate(structure.sections):
        inside = itertools.takewhile(lambda each: each.level != 1, structure.sections[at + 1 :])
        if section.level == 1 and any(each.title.lower() == "model description" for each in inside):
            heads.append(section.first)
    if len(heads) < 2:
        return None
    keys = [*structure.lines[heads[0] : heads[1]]]
    opened = (at for at in range(len(keys) - 1) if keys[at].rstrip() == "---" and _KEY.match(keys[at + 1]))
    return heads[0] + 1 + next(opened, heads[1] - heads[0] - 1)


def _find_header(lines: list[str]) -> tuple[tuple[int, int] | None, int, bool]:
    """Lines of the YAML header, lines to skip (its marks too), and whether it is closed."""
    for start, line in enumerate(lines[:50], 1):
        after = (line for line in lines[start : start + 20] if line.strip() and not line.startswith("#"))
        if line.rstrip() == "---" and _KEY.match(next(after, "")):
            closing = next((at for at in range(start, len(lines)) if lines[at].rstrip() == "---"), None)
            if closing is not None:
                return (start + 1, closing), closing + 1, True
            end = next((at for at in range(start, len(lines)) if lines[at].startswith("# ")), len(lines))
            return (start + 1, end), end, False
    return None, 0, False


def _mask_rows(masked: list[str], start: int) -> list[list[tuple[int, int]]]:
    """Blank table rows in `masked`; runs of rows, each row as (first, last) line, 1-based."""
    runs: list[list[tuple[int, int]]] = []
    ahead = _MOST_AHEAD
    index, run_end = start, -1
    while index < len(masked):
        if not masked[index].lstrip(" ").startswith("|"):
            index += 1
            continue
        end, looked = _row_end(masked, index, min(_LONGEST_ROW, ahead))
        ahead -= looked
        if index != run_end:
            runs.append([])
        runs[-1].append((index + 1, end + 1))
        masked[index : end + 1] = [""] * (end + 1 - index)
        index = run_end = end + 1
    return runs


def _row_end(lines: list[str], index: int, longest: int) -> tuple[int, int]:
    """Index of the row's last line, and how many lines were looked at beyond the first.

    A row continues while its last cell is open; where no end is found, it is its first line alone.
    """
    opened = lines[index].count("<code>") - lines[index].count("</code>")
    if opened <= 0 and lines[index].rstrip().endswith("|"):
        return index, 0
    for at in range(index + 1, min(index + longest, len(lines))):
        line = lines[at]
        if _OPEN_ROW_ENDS.match(line):
            return index, at - index
        opened += line.count("<code>") - line.count("</code>")
        if opened <= 0 and line.rstrip().endswith("|"):
            return at, at - index
    return index, longest


def _parse_blocks(structure: Structure, masked: list[str]) -> set[int]:
    """Fill sections, fences and comments; the lines that are in a fence or comment."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"maxNesting": 20})
    parser.core.ruler.enableOnly(["normalize", "block"])
    parser.disable(["code", "reference"])
    fenced: set[int] = set()
    heads: list[tuple[int, int, str]] = []
    tokens = parser.parse("\n".join(_first_lines(masked)))
    for at, token in enumerate(tokens):
        if token.map is None:
            continue
        first, last = token.map[0] + 1, token.map[1]
        if token.type == "fence":
            lines = structure.lines[first:last]
            closed = bool(lines) and lines[-1].strip() == token.markup
            text = token.content if not closed or masked[first:last] == lines else "\n".join(lines[:-1])
            structure.fences[first] = Fence(text, token.info.strip(), first, last)
            fenced.update(range(first, last + 1))
        elif token.type == "html_block" and token.content.lstrip().startswith("<!--"):
            structure.comments.append((first, last))
            fenced.update(range(first, last + 1))
        elif token.type == "heading_open" and token.level == 0:
            heads.append((first, int(token.tag[1]), tokens[at + 1].content.strip()))
    _make_sections(structure, heads)
    return fenced


def _first_lines(masked: list[str]) -> Iterator[str]:
    """The lines up to a bound, so that a hostile card cannot keep the parser busy; the rest counts as text."""
    left = _MOST_LINES
    for line in masked:
        left -= bool(line)
        if left < 0:
            return
        yield line.replace("\0", " ")


def _make_sections(structure: Structure, heads: list[tuple[int, int, str]]) -> None:
    start = 1 if structure.header is None else structure.header[1] + 1
    ends = [*(line - 1 for line, _, _ in heads), len(structure.lines)]
    stack: list[tuple[int, str]] = []
    structure.sections.append(Section((), 0, start, ends[0]))
    for (line, level, title), end in zip(heads, ends[1:], strict=True):
        while stack and stack[-1][0] >= level:
            stack.pop()
        stack.append((level, title))
        structure.sections.append(Section(tuple(part for _, part in stack), level, line, end))


def _read_table(lines: list[str], run: list[tuple[int, int]]) -> Table | None:
    """The table in a run of rows, or None where no delimiter line follows the heading."""
    if len(run) < 2:
        return None
    rule = lines[run[1][0] - 1].rstrip()
    if run[1][0] != run[1][1] or "-" not in rule or not set(rule) <= set("|:- \t"):
        return None
    head = "\n".join(lines[run[0][0] - 1 : run[0][1]]).rstrip()
    places = [at for at, character in enumerate(rule) if character == "|"]
    header = _cells_at(head, places) or _split_pipes(head)
    rows = []
    for first, last in run[2:]:
        cells = _split_row("\n".join(lines[first - 1 : last]), places, len(header))
        rows.append(Row(tuple(cells), first, last, len(cells) == len(header)))
    return Table(tuple(header), tuple(rows), run[0][0], run[-1][1])


def _split_row(text: str, places: list[int], count: int) -> list[str]:
    """Cells of a row: at the pipes' positions if they are there, else between `<code>` cells, else at every pipe."""
    if cells := _cells_at(text.rstrip(), places):
        return cells
    cells = _split_pipes(text)
    coded = [] if len(cells) == count else _CODE_CELLS.split(text.strip().strip("|").strip())
    return [_unescape(part.removesuffix("</code>") + "</code>") for part in coded] if len(coded) == count else cells


def _cells_at(text: str, places: list[int]) -> list[str] | None:
    if len(places) < 2 or len(text) != places[-1] + 1 or any(text[at] != "|" for at in places):
        return None
    cells = [text[start + 1 : end] for start, end in itertools.pairwise(places)]
    if any(cell and (cell[0] != " " or cell[-1] != " ") for cell in cells):
        return None
    return [_unescape(cell.strip(" ")) for cell in cells]


def _split_pipes(text: str) -> list[str]:
    text = text.strip().removeprefix("|")
    text = text if text.endswith("\\|") else text.removesuffix("|")
    return [_unescape(cell.strip()) for cell in re.split(r"(?<!\\)\|", text)]


def _unescape(cell: str) -> str:
    return cell.replace("\\|", "|")
