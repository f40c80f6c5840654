"""What reaches a terminal or another program: no control character of a card or a data file."""

from __future__ import annotations

import json

import pytest

from workbench.cli.terminal import print_json, printable

CONTROLS = ("\x85", "\x9b", "\x7f", "\x1b", "\u202e", "\u2066", "\u200f", "\u061c", "\u2028", "\ud800")


@pytest.mark.parametrize("character", CONTROLS)
def test_no_control_character_gets_out(character: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"a{character}b"
    assert character not in printable(text)
    print_json({text: [text]})
    shown = capsys.readouterr().out
    assert character not in shown
    same = text if character != "\ud800" else "a\N{REPLACEMENT CHARACTER}b"
    assert json.loads(shown.encode()) == {same: [same]}
