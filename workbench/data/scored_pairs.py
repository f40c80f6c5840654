"""Scored pairs in two files, line by line: texts and scores, as in the SemEval tasks.

A line without a score is no pair of the set. Tables of scored pairs are read by `readers` and `columns`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from workbench.data.columns import is_number
from workbench.data.readers import ending, text_lines
from workbench.errors import DataError, listed

TextPair = tuple[str, str]


@dataclass(frozen=True)
class ScoredPairs:
    """A set of pairs; the sequences are parallel."""

    name: str
    pairs: tuple[TextPair, ...]
    gold: tuple[float, ...]
    left_out: int = 0  # pairs without a score


def is_data(path: Path) -> bool:
    """Whether a file may hold rows, and not a description of others.

    >>> is_data(Path("README.txt"))
    False
    """
    name = path.name.lower()
    about = name.startswith(("readme", "license", "licence", "dataset_info")) or name == "source.txt"
    return path.is_file() and not about


def read_line_pairs(path: Path) -> ScoredPairs | None:
    """Pairs and scores of the text files in a folder, or of `path` and the file that belongs to it; None where there
    are none.

    Raises DataError where it is not clear which files belong together.
    """
    folder = path if path.is_dir() else path.parent
    files = sorted(file for file in folder.glob("*.txt*") if is_data(file) and ending(file) == ".txt")
    if path != folder and not (path in files and _are_scores(path)):
        files = [file for file in (path, path.with_name(path.name.replace("input", "gs"))) if file in files]
    scores = [file for file in files if _are_scores(file)]
    texts = [file for file in files if scores and file not in scores]
    matched = [found for found in _match(scores, texts) if path in (folder, *found[:2])]
    if not matched:
        return None
    given = [(pair, score) for _, _, pairs, golds in matched for pair, score in zip(pairs, golds, strict=True)]
    rows = [(pair, float(score)) for pair, score in given if score.strip()]
    name = folder.resolve().name if path == folder else path.name.partition(".")[0]
    left_out = len(given) - len(rows)
    return ScoredPairs(name, tuple(pair for pair, _ in rows), tuple(score for _, score in rows), left_out)


def _lines(path: Path) -> list[str]:
    return [line.rstrip("\r\n") for line in text_lines(path)]


def _match(scores: Sequence[Path], texts: Sequence[Path]) -> Iterator[tuple[Path, Path, list[TextPair], list[str]]]:
    """Each file of scores that has a file of texts, that file, and the lines of both."""
    lines = {path: _lines(path) for path in texts}
    for path in scores:
        golds = _lines(path)
        fitting = {other: pairs for other, each in lines.items() if (pairs := _pairs_of(each, len(golds)))}
        own = path.with_name(path.name.replace("gs", "input"))
        if own not in fitting and len(fitting) > 1:
            raise DataError(
                f"expected one file of texts for the scores of {path.name!r}, found "
                f"{listed(other.name for other in fitting)}; keep one in the folder."
            )
        if fitting:
            other = own if own in fitting else next(iter(fitting))
            yield path, other, fitting[other], golds


def _are_scores(path: Path) -> bool:
    """Whether a file has several lines and each is a number; a file of texts is read no further than its first."""
    given = (line for line in text_lines(path) if line.strip())
    first = [is_number(line) for line in islice(given, 2)]
    return len(first) == 2 and all(first) and all(map(is_number, given))


def _pairs_of(lines: Sequence[str], count: int) -> list[TextPair]:
    """`count` lines of two texts, or twice as many lines of one text; else nothing."""
    split = [line.split("\t") for line in lines]
    if len(lines) == count and all(len(fields) >= 2 for fields in split):
        return [(fields[0], fields[1]) for fields in split]
    if len(lines) == 2 * count and all(lines):
        return list(zip(lines[::2], lines[1::2], strict=True))
    return []
