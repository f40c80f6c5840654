"""Words of any script."""

from __future__ import annotations

import pytest

from workbench.views.words import shared_words, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Was kostet's? Äpfel & ÄPFEL!", ["was", "kostet", "s", "äpfel"]),
        ("한국어 법률", ["한국어", "법률"]),
        ("ශ්‍රී ලංකා", ["ශ්‍රී", "ලංකා"]),
        ("東京A駅", ["東", "京", "a", "駅"]),
        ("", []),
        ("--- !", []),
    ],
)
def test_words_of_any_script(text: str, expected: list[str]) -> None:
    assert list(words(text)) == expected


@pytest.mark.parametrize(
    ("query", "document", "shared"),
    [
        ("Which boot is wide?", "A wide, flat Boot!", ["wide", "Boot"]),
        ("주택임대차보호법 언제", "주택임대차보호법은 이렇다", ["주택임대차보호법은"]),
        ("ශ්‍රී ලංකාවේ අගනුවර", "අගනුවර කොළඹ", ["අගනුවර"]),
        ("the of it 42", "the 42 of it", ["42"]),
    ],
)
def test_shared_words(query: str, document: str, shared: list[str]) -> None:
    found = shared_words(query, document)
    assert "".join(text for text, _ in found) == document
    assert [text for text, same in found if same] == shared
