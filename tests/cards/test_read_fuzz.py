"""Cards that are cut, spliced, shuffled and littered: reading never crashes, hangs or gives what JSON cannot hold."""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.cards import literals
from workbench.cards.card import Card
from workbench.cards.read import card_from_dict, card_to_dict, parse_card
from workbench.cards.text import split_lines
from workbench.errors import CardError

CARDS = Path(__file__).resolve().parents[3] / "shared" / "cards"
PATHS = [path for path in sorted(CARDS.rglob("*.md")) if path.parent != CARDS and path.stat().st_size < 80_000]
TEXTS = [path.read_bytes() for path in PATHS]
LITTER = [
    b"|", b"\n", b"\r", b"\r\r\n", b"```\n", b"\n---\n", b"<!--", b"-->", b"<details><summary>", b"</details>",
    b"\xc2\x85",
    b"\xe2\x80\xa8", b"\xff", b"\0", b"[[[[", b"&a [*a]", b"*a", b"!!python/object:os.system x", b"\n# x\n",
    b"\n### Training Logs\n", b"\n### Training Dataset\n", b"\n#### Unnamed Dataset\n",
    b"\n| a | b |\n|:-|:-|\n| 1 |\n",
    b"<code>", b"</code>", b"**", b"nan", b"1e999", b"9" * 400, b"\n- `x`: [1, ...]\n",
    b"\n- `y`: {'a': {'b': (1, {2})}}\n",
    b"    ", b"- - - - ", b"\xc3\xa2\xe2\x82\xac\xe2\x84\xa2", b"\n* Loss: <code>X</code> with these parameters:\n",
    b'  ```json\n  {"loss": "A(B(d=<f at 0x1>))", "x": NaN}\n  ```\n', b"\n## Evaluation\n### Metrics\n#### Mine\n",
    b"\n| Metric | Value |\n|:--|:--|\n| x | y (+nan) |\n",
]  # fmt: skip

pytestmark = pytest.mark.skipif(not TEXTS, reason=f"no real cards at {CARDS}")


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real card after one to six changes."""
    data = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(1, 2_000))
        match draw(st.sampled_from(["cut", "drop", "repeat", "litter", "splice", "shuffle"])):
            case "cut":
                data = data[:at]
            case "drop":
                data = data[:at] + data[at + length :]
            case "repeat":
                data = data[:at] + data[at : at + length] * 3 + data[at + length :]
            case "litter":
                data = data[:at] + draw(st.sampled_from(LITTER)) * draw(st.sampled_from([1, 1, 30])) + data[at:]
            case "splice":
                other = draw(st.sampled_from(TEXTS))
                start = draw(st.integers(0, len(other)))
                data = data[:at] + other[start : start + 4 * length] + data[at:]
            case _:
                lines = data.split(b"\n")
                first = min(at, len(lines))
                lines[first : first + 6] = draw(st.permutations(lines[first : first + 6]))
                data = b"\n".join(lines)
    return data


def reads_in_time(data: bytes) -> Card | None:
    start = time.process_time()
    message, card = "", None
    try:
        card = parse_card(data, name="fuzz")
    except CardError as error:
        message = str(error)
    assert time.process_time() - start < 2
    if card is None:
        assert re.fullmatch("Expected [^\n]+", message)
        return None
    assert card_from_dict(json.loads(json.dumps(card_to_dict(card), allow_nan=False))) == card
    return card


@examples(150)
@given(mutated())
def test_mutated_cards(data: bytes) -> None:
    card = reads_in_time(data)
    if card is not None:
        last = len(card.lines)
        for part in card.unread:
            assert part.reason
            if part.section not in card.beside:
                assert 1 <= part.lines[0] <= part.lines[1] <= last
        for row in card.training_log:
            assert row.line is None or 1 <= row.line <= last
        assert repr(card)
        assert card._repr_html_().endswith("</table>")


@examples(100)
@given(st.sampled_from(TEXTS), st.floats(0, 1))
def test_truncated_cards(data: bytes, share: float) -> None:
    reads_in_time(data[: int(len(data) * share)])


@examples(200)
@given(st.binary(max_size=3_000))
def test_any_bytes(data: bytes) -> None:
    reads_in_time(data)


@examples(200)
@given(st.text(max_size=2_000))
def test_any_text_after_a_header(text: str) -> None:
    data = ("---\ntags:\n- sentence-transformers\n---\n" + text).encode("utf-8", "surrogatepass")
    reads_in_time(data)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_card_json_is_read_or_refused(seed: int) -> None:
    draw = random.Random(seed)
    text = json.dumps(card_to_dict(parse_card(draw.choice(TEXTS), name="x")))
    for _ in range(40):
        stored = json.loads(text)
        place, key = stored, draw.choice(sorted(stored))
        while draw.random() < 0.7 and isinstance(place[key], dict | list) and place[key]:
            place = place[key]
            key = draw.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
        if draw.random() < 0.3:
            del place[key]
        else:
            place[key] = draw.choice([None, "x", -1, 2.5, [], {}, [[]], {"x": None}, True, {"/a/0": "nan"}])
        with contextlib.suppress(CardError):
            card_from_dict(stored)


@examples(200)
@given(st.text())
def test_lines_hold_all_but_their_ends(text: str) -> None:
    assert "".join(split_lines(text)) == text.replace("\r", "").replace("\n", "")


@examples(300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    )
)
def test_a_printed_argument_is_read_back(item: object) -> None:
    assert literals.value(str(item)) == item


@examples(300)
@given(st.text(max_size=200))
def test_any_text_as_a_value(text: str) -> None:
    literals.value(text)
    literals.literal(text)
    literals.parameters(text)
    literals.call(text)
    literals.number(text)
