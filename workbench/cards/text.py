"""Bytes of a card -> its lines, with the damage of a wrong decoding undone and counted.

Why not `ftfy.fix_text`: it also straightens quotes and breaks ligatures, which would change what a card says. Only the
encoding is repaired here. Two kinds of damage occur. When every byte survived, `ftfy` finds the way back. When the
wrong decoding threw away bytes that its table lacks (0x81, 0x8D, ... in Windows code pages), the characters that are
still whole are restored, and each one that is not becomes U+FFFD and is counted as lost.

A line ends at LF, CR, CR LF or CR CR LF, as an editor shows it; C1 control characters and U+2028 end no line.
"""

from __future__ import annotations

import re

from workbench.cards.card import Text
from workbench.errors import CardError

MAX_BYTES = 5_000_000
"""Longest card that is read; the longest public one known has 0.6 MB."""

LOST = "\N{REPLACEMENT CHARACTER}"

_LINE_END = re.compile(r"\r+\n|\r|\n")
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
    return _LINE_END.split(text)


def read_text(data: bytes, name: str) -> tuple[list[str], Text]:
    """The lines of a card after repair, and what was repaired or lost.

    Raises CardError where the bytes are no text, or more than `MAX_BYTES`.
    """
    if len(data) > MAX_BYTES:
        raise CardError(
            f"Expected a model card of at most {MAX_BYTES:,} bytes, found {len(data):,} in {name!r}; "
            "pass the model's README.md."
        )
    lines = split_lines(_decode(data, name))
    return _repair(lines)


def _decode(data: bytes, name: str) -> str:
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    if b"\0" in data or _binary(data[:4096]):
        raise CardError(
            f"Expected the Markdown text of a model card, found binary data in {name!r} (it starts with {data[:8]!r}); "
            "pass the model's README.md."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", errors="replace")
    whole = sum(1 for character in text if not character.isascii() and character != LOST)
    if whole >= text.count(LOST):
        return text
    return data.decode("cp1252", errors="replace")


def _binary(head: bytes) -> bool:
    controls = sum(1 for byte in head if byte < 32 and byte not in b"\t\n\r\x0b\x0c\x1b")
    return controls > max(4, len(head) // 50)


def _repair(lines: list[str]) -> tuple[list[str], Text]:
    suspects = [number for number, line in enumerate(lines) if not line.isascii() and _SUSPECT.search(line)]
    originals = {}
    if suspects:
        damaged = [lines[number] for number in suspects]
        for number, before, after in zip(suspects, damaged, _restore(damaged), strict=True):
            if after != before:
                originals[number + 1] = before
                lines[number] = after
    repaired = 0
    for number, before in originals.items():
        repaired += _count_restored(before, lines[number - 1])
    lost_lines = tuple(number for number, line in enumerate(lines, 1) if LOST in line)
    lost = sum(lines[number - 1].count(LOST) for number in lost_lines)
    return lines, Text(repaired, lost, tuple(originals), lost_lines, originals)


def _count_restored(before: str, after: str) -> int:
    """How many characters of `after` were restored: each stands for as many in `before` as it has bytes in UTF-8."""
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
    import ftfy
    from ftfy.badness import badness

    settings = ftfy.TextFixerConfig(unescape_html=False, fix_c1_controls=False, explain=False)
    text = "\n".join(damaged)
    fixed = ftfy.fix_encoding(text, settings)
    if badness(fixed) > 0:
        fixed = _restore_lossy(text) or fixed
    parts = fixed.split("\n")
    if len(parts) != len(damaged):
        return damaged
    if fixed == text:
        return [ftfy.fix_encoding(line, settings) for line in damaged]
    return parts


def _restore_lossy(text: str) -> str:
    """Undo a wrong decoding that dropped bytes; empty unless most characters come out whole."""
    best, most = "", 9
    for table in _LOSSY_TABLES:
        try:
            data = text.encode(table)
        except UnicodeEncodeError:
            continue
        whole = 0
        lost = 0
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
