"""Pairs of texts with a score, from wherever such sets lie: one file, several, or texts and scores in a file each.

The columns are found by their usual names, `columns` names others. A table without a heading is read where it has two
columns of text and one of numbers. Sets of the SemEval tasks come as a file of texts and a file of scores, line by
line; a line without a score is no pair of the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.data.columns import is_number
from workbench.data.readers import ending, text_lines
from workbench.errors import DataError


@dataclass(frozen=True)
class ScoredPairs:
    """A set of pairs; the sequences are parallel."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    gold: tuple[float, ...]


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
    return len(said) > 1 and all(is_number(line) for line in said)


def _pairs_of(lines: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Pairs of `count` lines of two texts, or of twice as many lines of one; nothing where they are neither."""
    split = [line.split("\t") for line in lines]
    if len(lines) == count and all(len(fields) >= 2 for fields in split):
        return [(fields[0], fields[1]) for fields in split]
    if len(lines) == 2 * count and all(lines):
        return list(zip(lines[::2], lines[1::2], strict=True))
    return []
