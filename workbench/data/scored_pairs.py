"""Pairs of texts with a score, from wherever such sets lie: one file, several, or texts and scores in a file each.

The columns are found by their usual names, `columns` names others. A table without a heading is read where it has two
columns of text and one of numbers. Sets of the SemEval tasks come as a file of texts and a file of scores, line by
line; a line without a score is no pair of the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from workbench.data.readers import ending, text_lines
from workbench.errors import DataError

Columns = Mapping[str, str]
"""Names of columns, theirs -> ours."""

OURS = ("sentence1", "sentence2", "score")

ENDS = (("1", "2"), ("0", "1"), ("a", "b"))
TEXTS = (
    *((f"{name}{one}", f"{name}{two}") for name in ("sentence", "sent", "text", "s", "question") for one, two in ENDS),
    ("anchor", "positive"),
    ("premise", "hypothesis"),
    ("1string", "2string"),
)
"""How two columns of text are called where a score says how near they are, without case, blanks and lines."""

SCORES = (
    "score", "scores", "label", "labels", "similarity", "similarityscore", "relatednessscore", "relatedness",
    "goldscore", "gold", "rating", "meanscore", "averagescore", "humanscore", "isduplicate", "duplicate", "quality",
    "isparaphrase", "paraphrase", "target",
)  # fmt: skip
"""How their score is called, the likeliest name first."""


@dataclass(frozen=True)
class ScoredPairs:
    """A set of pairs; the sequences are parallel."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    gold: tuple[float, ...]


def names_of(rows: Sequence[Mapping[str, object]], columns: Columns) -> dict[str, str] | None:
    """Their names of two texts and a score -> ours, of the first `rows` of a table; None where it has no score.

    >>> names_of([{"Sentence A": "x", "Sentence B": "y", "Relatedness": 3}], {})
    {'Sentence A': 'sentence1', 'Sentence B': 'sentence2', 'Relatedness': 'score'}
    """
    theirs = [str(name) for name in (rows[0] if rows else ())]
    said = {plain(columns.get(name, name)): name for name in reversed(theirs)}  # of two alike, the first
    said |= {plain(ours): name for name, ours in columns.items() if name in theirs}
    gold = next((said[name] for name in SCORES if name in said), None)
    texts = next(((said[one], said[two]) for one, two in TEXTS if one in said and two in said), None)
    if gold is not None and texts is not None:
        return dict(zip((*texts, gold), OURS, strict=True))
    if rows and theirs == [str(place) for place in range(1, len(theirs) + 1)]:
        return _by_content(rows)
    return None


def plain(name: str) -> str:
    """
    >>> plain("Sentence_A"), plain("relatedness score")
    ('sentencea', 'relatednessscore')
    """
    return "".join(sign for sign in name.lower() if sign.isalnum())


def _by_content(rows: Sequence[Mapping[str, object]]) -> dict[str, str] | None:
    """The columns of a table without a heading: two of text, one of numbers, and at most one that counts the rows."""
    numbers = [name for name in rows[0] if all(_is_number(row.get(name)) for row in rows)]
    texts = [name for name in rows[0] if name not in numbers]
    if len(numbers) == 2:
        numbers = [name for name in numbers if not _counts([float(str(row[name])) for row in rows])]
    return dict(zip((*texts, *numbers), OURS, strict=True)) if (len(texts), len(numbers)) == (2, 1) else None


def _counts(numbers: Sequence[float]) -> bool:
    return all(following == number + 1 for number, following in pairwise(numbers))


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


# --- a folder --------------------------------------------------------------------------------------------------------


def is_data(path: Path) -> bool:
    """Whether a file may hold rows; those that say what the others are do not.

    >>> is_data(Path("README.txt"))
    False
    """
    name = path.name.lower()
    about = name.startswith(("readme", "license", "licence", "dataset_info")) or name == "source.txt"
    return path.is_file() and not about


def of_lines(path: Path) -> ScoredPairs | None:
    """Pairs and scores that lie beside each other, line by line, in a folder, or in `path` and a file beside it.

    None where they do not. Raises DataError where it is not clear which files belong together.
    """
    folder = path if path.is_dir() else path.parent
    files = sorted(file for file in folder.glob("*") if is_data(file) and ending(file) == ".txt")
    if path != folder:
        there = [each for each in (path, path.with_name(path.name.replace("input", "gs"))) if each in files]
        files = files if path in files and _are_scores(_lines(path)) else there
    beside = list(_beside(files))
    if path != folder:
        beside = [found for found in beside if path in found[2:]]
    if not beside:
        return None
    name = folder.resolve().name if path == folder else path.name.partition(".")[0]
    pairs, gold = sum((found[0] for found in beside), ()), sum((found[1] for found in beside), ())
    return ScoredPairs(name, pairs, gold)


def _lines(path: Path) -> list[str]:
    return [line.rstrip("\r\n") for line in text_lines(path)]


def _beside(files: Sequence[Path]) -> Iterator[tuple[tuple[tuple[str, str], ...], tuple[float, ...], Path, Path]]:
    """Pairs and scores of each file of numbers that has a file of texts: as many lines of two texts apart by a tab, or
    twice as many lines, the two texts of a pair one under the other."""
    texts = {path: _lines(path) for path in files}
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
        chosen = own if own in fitting else next(iter(fitting))
        pairs = fitting[chosen]
        kept = [(pair, float(line)) for pair, line in zip(pairs, given, strict=True) if line.strip()]
        yield tuple(pair for pair, _ in kept), tuple(score for _, score in kept), path, chosen


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
