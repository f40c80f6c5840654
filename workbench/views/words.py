"""Words of texts in any script: which words of a query a document has, and how similar two documents are."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping

ALONE = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0x20000, 0x3FFFF))
"""Code points of scripts without spaces between words (Thai, Lao, Burmese, Khmer, kana, Han): each is a word."""


def words(text: str, *, short: bool = True) -> dict[str, None]:
    """The words of a text in lower case, in order, each once: sequences of letters, marks, and digits.

    `short=False` leaves out Latin words of one to three letters, nearly all of them articles and prepositions.

    >>> list(words("The boot of the 911, the boot!")), list(words("The boot of the 911", short=False))
    (['the', 'boot', 'of', '911'], ['boot', '911'])
    """
    return dict.fromkeys(text[start:end].casefold() for start, end in _spans(text, short=short))


def _spans(text: str, *, short: bool) -> Iterator[tuple[int, int]]:
    """Start and end of every word."""
    start = None
    for place, character in enumerate(text + " "):
        inner = character in "\u200c\u200d" or unicodedata.category(character)[0] in "LMN"
        alone = inner and any(low <= ord(character) <= high for low, high in ALONE)
        if start is not None and (alone or not inner):
            word = text[start:place]
            if short or len(word) > 3 or not (word.isascii() and word.isalpha()):
                yield start, place
            start = None
        if alone:
            yield place, place + 1
        elif inner and start is None:
            start = place


def shared_words(query: str, document: str) -> list[tuple[str, bool]]:
    """The document's text in parts: (text, whether it is a word of the query).

    Words are compared without case and punctuation. Latin words of up to three letters do not count; a Korean word
    matches with or without its particle.

    >>> shared_words("Which boot is wide?", "A wide, flat boot")
    [('A ', False), ('wide', True), (', flat ', False), ('boot', True)]
    """
    wanted = words(query, short=False)
    parts: list[tuple[str, bool]] = []
    last = 0
    for start, end in _spans(document, short=False):
        word = document[start:end]
        if any(_same(word.casefold(), other) for other in wanted):
            parts += [(document[last:start], False), (word, True)]
            last = end
    return [part for part in (*parts, (document[last:], False)) if part[0]]


def _same(word: str, other: str) -> bool:
    short, long = sorted((word, other), key=len)
    korean = len(short) > 1 and all("\uac00" <= letter <= "\ud7a3" for letter in short)
    return word == other or (korean and long.startswith(short) and len(long) - len(short) < 3)


def jaccard(left: Mapping[str, None], right: Mapping[str, None]) -> float:
    """Shared words divided by all words; 0 if both are empty.

    >>> jaccard(words("a b c d e"), words("a b c d"))
    0.8
    """
    shared = len(left.keys() & right.keys())
    return shared / max(len(left) + len(right) - shared, 1)
