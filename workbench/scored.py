"""Pairs of texts with a score, from wherever such sets lie: one file, several, or texts and scores in a file each.

The columns are found by their usual names, `columns` names others. A table without a heading is read where it has two
columns of text and one of numbers. Sets of the SemEval tasks come as a file of texts and a file of scores, line by
line; a line without a score is no pair of the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from workbench.errors import DataError
from workbench.pairs import load_pairs
from workbench.recipe import Source
from workbench.rows import READERS, ending, open_rows, text_lines

Columns = Mapping[str, str]
"""Names of columns, theirs -> ours."""

OURS = ("sentence1", "sentence2", "score")

ENDS = (("1", "2"), ("0", "1"), ("a", "b"))
TEXTS = (
    *((f"{name}{one}", f"{name}{two}") for name in ("sentence", "sent", "text", "s", "question") for one, two in ENDS),
    ("anchor", "positive"),
    ("premise", "hypothesis"),
)
"""How two columns of text are called where a score says how near they are, without case, blanks and lines."""

SCORES = (
    "score", "scores", "label", "labels", "similarity", "similarityscore", "relatednessscore", "relatedness",
    "goldscore", "gold", "rating", "meanscore", "averagescore", "humanscore",
)  # fmt: skip
"""How their score is called, the likeliest name first."""


@dataclass(frozen=True)
class ScoredPairs:
    """A set of pairs; the sequences are parallel."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    gold: tuple[float, ...]


def scored_pairs(place: str, columns: Columns | None = None, *, split: str = "test") -> ScoredPairs | None:
    """The pairs at `place`, a file, a pattern of files ("sick/SICK_*.txt") or a folder; None where it holds no scores.

    A folder is one with a file of scores beside one of texts, or with one file of `split` among others.

    Raises DataError where rows cannot be read, or where it is not clear which files belong together.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        return _of_folder(path, dict(columns or {}), split)
    files = [path] if path.is_file() else _matching(place)
    parts = [found for file in files if (found := _of_file(file, dict(columns or {}))) is not None]
    if not parts:
        return None
    if len(parts) < len(files):
        raise DataError(
            f"expected a score in every file of {place!r}, found {len(files) - len(parts)} without; name fewer."
        )
    name = parts[0].name if len(parts) == 1 else path.parent.resolve().name
    return ScoredPairs(name, sum((part.pairs for part in parts), ()), sum((part.gold for part in parts), ()))


def _matching(place: str) -> list[Path]:
    """The files that a pattern means, in the order of their names."""
    if not any(sign in place for sign in "*?["):
        return []
    path = Path(place).expanduser()
    found = sorted(file for file in path.parent.glob(path.name) if file.is_file())
    if not found:
        raise DataError(f"expected files like {place!r}, found none; check the place given with --on.")
    return found


# --- one table -------------------------------------------------------------------------------------------------------


def _of_file(path: Path, columns: Columns) -> ScoredPairs | None:
    names = _names(path, columns)
    if names is None:
        return None
    rows = load_pairs(Source(location=str(path), columns=names), OURS).rows
    first, second, gold = (list(rows[column]) for column in OURS)
    return ScoredPairs(path.name.partition(".")[0], tuple(zip(first, second, strict=True)), tuple(map(float, gold)))


def _names(path: Path, columns: Columns) -> dict[str, str] | None:
    """Their names of two texts and a score -> ours; None where the file has no score."""
    rows = [dict(row) for row in islice(open_rows(Source(location=str(path)), lambda: False), 100)]
    theirs = [str(name) for name in (rows[0] if rows else ())]
    said = {_plain(columns.get(name, name)): name for name in reversed(theirs)}  # of two alike, the first
    said |= {_plain(ours): name for name, ours in columns.items() if name in theirs}
    gold = next((said[name] for name in SCORES if name in said), None)
    texts = next(((said[one], said[two]) for one, two in TEXTS if one in said and two in said), None)
    if gold is not None and texts is not None:
        return dict(zip((*texts, gold), OURS, strict=True))
    if rows and theirs == [str(place) for place in range(1, len(theirs) + 1)]:
        return _by_content(rows)
    return None


def _plain(name: str) -> str:
    """
    >>> _plain("Sentence_A"), _plain("relatedness score")
    ('sentencea', 'relatednessscore')
    """
    return "".join(sign for sign in name.lower() if sign.isalnum())


def _by_content(rows: Sequence[Mapping[str, object]]) -> dict[str, str] | None:
    """The columns of a table without a heading: two of text, one of numbers."""
    numbers = [name for name in rows[0] if all(_is_number(row.get(name)) for row in rows)]
    texts = [name for name in rows[0] if name not in numbers]
    return dict(zip((*texts, *numbers), OURS, strict=True)) if (len(texts), len(numbers)) == (2, 1) else None


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


# --- a folder --------------------------------------------------------------------------------------------------------


def _of_folder(folder: Path, columns: Columns, split: str) -> ScoredPairs | None:
    files = sorted(path for path in folder.iterdir() if path.is_file() and ending(path) in READERS)
    beside = list(_beside(files))
    if beside:
        pairs, gold = (sum((found[side] for found in beside), ()) for side in (0, 1))
        return ScoredPairs(folder.resolve().name, pairs, gold)  # type: ignore[arg-type]
    inside = [*files, *sorted(path for path in (folder / "data").glob("*") if ending(path) in READERS)]
    named = [path for path in inside if split in path.name.lower()]
    return _of_file(named[0], columns) if len(named) == 1 else None


def _beside(files: Sequence[Path]) -> Iterator[tuple[tuple[tuple[str, str], ...], tuple[float, ...]]]:
    """Pairs and scores of each file of numbers that has a file of texts: as many lines of two texts apart by a tab, or
    twice as many lines, the two texts of a pair one under the other."""
    texts = {path: [line.rstrip("\r\n") for line in text_lines(path)] for path in files if ending(path) == ".txt"}
    scores = {path: lines for path, lines in texts.items() if _are_scores(lines)}
    for path, given in scores.items():
        fitting = {
            other: pairs
            for other, lines in texts.items()
            if other not in scores and len(pairs := _pairs_of(lines, len(given))) == len(given)
        }
        if not fitting:
            continue
        own = path.with_name(path.name.replace("gs", "input"))
        if own not in fitting and len(fitting) > 1:
            raise DataError(
                f"expected one file of texts for the scores of {path.name!r}, found "
                f"{', '.join(other.name for other in fitting)}; keep one in the folder."
            )
        pairs = fitting.get(own) or next(iter(fitting.values()))
        kept = [(pair, float(line)) for pair, line in zip(pairs, given, strict=True) if line.strip()]
        yield tuple(pair for pair, _ in kept), tuple(score for _, score in kept)


def _are_scores(lines: Sequence[str]) -> bool:
    said = [line for line in lines if line.strip()]
    return len(said) > 1 and all(_is_number(line) for line in said)


def _pairs_of(lines: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Pairs of `count` lines of two texts, or of twice as many lines of one; nothing where they are neither."""
    split = [line.split("\t") for line in lines]
    if len(lines) == count and all(len(fields) >= 2 for fields in split):
        return [(fields[0], fields[1]) for fields in split]
    if len(lines) == 2 * count and all(lines):
        return list(zip(lines[::2], lines[1::2], strict=True))
    return []
