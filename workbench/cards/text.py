"""Bytes of a card -> its lines, with the damage of a wrong decoding undone and counted.

Only the encoding is repaired; `ftfy.fix_text` would also straighten quotes and break ligatures, which changes what a
card says. `ftfy.fix_encoding` repairs text of which every byte survived. Where the wrong decoding dropped bytes that
its table lacks (0x81, 0x8D, ... in Windows code pages), the characters that are still whole are restored here; each
one that is not becomes U+FFFD and is counted as lost.

A line ends at LF, CR, CR LF or CR CR LF, as an editor shows it; C1 control characters and U+2028 end no line.
"""

from __future__ import annotations

import re

from workbench.cards.card import Text
from workbench.errors import CardError

MAX_BYTES = 5_000_000
"""Longest card that is read; the longest public one known has 0.6 MB."""

LOST = "\N{REPLACEMENT CHARACTER}"

LINE_END = re.compile(r"\r+\n|\r|\n")
# Wrongly decoded UTF-8 is a letter beside a sign, or two signs, of one single-byte table; real words are letters only.
_SIGN = "\u0080-\u00bf\u00d7\u00f7\u02c6-\u02dd\u2010-\u203f\u20ac\u2100-\u25ff\uf8ff\ufb01\ufb02"
_LETTER = "\u00c0-\u024f\u0391-\u03c9"
_SUSPECT = re.compile(
    f"[{_SIGN}][{_LETTER}{_SIGN}]|[{_LETTER}][{_SIGN}]|[ÂÃÄÅÐÑ][ŠŒŽšœžŸƒ]|[ÂÃ¬√] |(?:[РС][\u00a0-\u2122]){{3}}|вЂ|β€"
)
_LOSSY_TABLES = ("cp1252", "cp1254", "cp1250", "cp1251", "cp1253", "cp1257", "cp1258", "mac_roman")
_UTF8_PARTS = re.compile(
    rb"[\x00-\x7f]+|[\xc2-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xf4][\x80-\xbf]{0,3}|[\x80-\xff]"
)


def split_lines(text: str) -> list[str]:
    r"""Lines of `text` without their ends.

    >>> split_lines("a\r\r\nb\rc\n\nd")
    ['a', 'b', 'c', '', 'd']
    """
    return LINE_END.split(text)


def read_text(data: bytes, name: str) -> tuple[list[str], Text]:
    """The lines of a card after repair, and what was repaired or lost.

    Raises CardError where the bytes are no text, or more than `MAX_BYTES`.
    """
    check_size(len(data), name)
    return _repair(split_lines(_decode(data, name)))


def check_size(size: int, name: str) -> None:
    """Raise CardError for a file of more than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise CardError(
            f"Expected a model card of at most {MAX_BYTES:,} bytes, found {size:,} in {name!r}; "
            "pass the model's README.md."
        )


def _decode(data: bytes, name: str) -> str:
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    if b"\0" in data or _binary(data[:4096]):
        raise CardError(
            f"Expected the Markdown text of a model card, found binary data in {name!r} (it starts with {data[:8]!r}); "
            "pass the model's README.md."
        )
    text = data.decode("utf-8", errors="replace")
    lost = text.count(LOST)
    whole = sum(1 for character in text if not character.isascii()) - lost if lost else 0
    return text if whole >= lost else data.decode("cp1252", errors="replace")


def _binary(head: bytes) -> bool:
    controls = sum(1 for byte in head if byte < 32 and byte not in b"\t\n\r\x0b\x0c\x1b")
    return controls > max(4, len(head) // 50)


def _repair(lines: list[str]) -> tuple[list[str], Text]:
    suspects = [number for number, line in enumerate(lines, 1) if not line.isascii() and _SUSPECT.search(line)]
    damaged = [lines[number - 1] for number in suspects]
    repaired, originals = 0, {}
    for number, before, after in zip(suspects, damaged, _restore(damaged), strict=True):
        if after != before:
            originals[number], lines[number - 1] = before, after
            repaired += _count_restored(before, after)
    lost = {number: line.count(LOST) for number, line in enumerate(lines, 1) if LOST in line}
    return lines, Text(repaired, sum(lost.values()), tuple(originals), tuple(lost), originals)


def _count_restored(before: str, after: str) -> int:
    """Characters of `after` that were restored: each takes as many in `before` as it has bytes in UTF-8."""
    at = restored = 0
    for character in after:
        whole = character.isascii() or before[at : at + 1] == character
        restored += not whole
        at += 1 if whole else len(character.encode("utf-8"))
    if at == len(before):
        return restored
    return sum(1 for character in after if not character.isascii() and character != LOST)


def _restore(damaged: list[str]) -> list[str]:
    """The same lines, repaired where that is certain; as many as came in."""
    if not damaged:
        return []
    import ftfy
    from ftfy.badness import badness

    settings = ftfy.TextFixerConfig(unescape_html=False, fix_c1_controls=False, explain=False)
    text = "\n".join(damaged)
    fixed = ftfy.fix_encoding(text, settings)
    if badness(fixed) > 0:
        fixed = _restore_lossy(text) or fixed
    if fixed == text:
        return [ftfy.fix_encoding(line, settings) for line in damaged]
    parts = fixed.split("\n")
    return parts if len(parts) == len(damaged) else damaged


def _restore_lossy(text: str) -> str:
    """Undo a wrong decoding that dropped bytes; empty unless most characters come out whole."""
    best, most = "", 9
    for table in _LOSSY_TABLES:
        try:
            data = text.encode(table)
        except UnicodeEncodeError:
            continue
        whole = lost = 0
        out = []
        for part in _UTF8_PARTS.findall(data):
            try:
                out.append(part.decode("utf-8"))
                whole += part[0] > 0x7F
            except UnicodeDecodeError:
                out.append(LOST)
                lost += 1
        if whole > most and whole >= 2 * lost:
            best, most = "".join(out), whole
    return best
