"""The multilingual stand-in: restored to the bit, with the tokens of the original."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import normalizers

import workbench as wb
from workbench.errors import BaseError
from workbench.models.base import LoadedBase, load_base
from workbench.models.multilingual import MULTILINGUAL, Q4, WEIGHTS_SHA256, _unpacked, character_map, data_file
from workbench.models.stand_ins import token_ids
from workbench.recipe.schema import Base
from workbench.training.fast.engine import refusal

KOREAN = ["임대차 계약은 언제 끝나는가?", "임차인은 두 달 전에 알려야 한다."]
SINHALA = ["මගේ බල්ලා උයනේ දුවනවා.", "බල්ලෙක් උයනේ සෙල්ලම් කරයි.", "අද වැස්සක් නැත."]


@pytest.fixture(scope="module")
def loaded() -> LoadedBase:
    try:
        data_file()
    except BaseError as error:
        pytest.skip(str(error))
    return load_base(Base(model="somebody/large"), MULTILINGUAL, device="cpu", texts=[*KOREAN, *SINHALA])


def test_the_weights_are_restored_to_the_bit_and_stand_in(loaded: LoadedBase) -> None:
    assert loaded.sha256 == WEIGHTS_SHA256
    assert (loaded.name, loaded.stand_in, loaded.unknown_share) == (MULTILINGUAL, True, 0.0)
    assert loaded.note == (
        "The base bundled:multilingual stands in for somebody/large (bundled:multilingual was asked for) with its own "
        "pooling and length: multilingual-e5-small, its weights restored from 4 bits; nothing measured on it is a "
        "reproduction."
    )
    assert (loaded.model.max_seq_length, loaded.model.get_embedding_dimension()) == (512, 384)


def test_the_fast_engine_takes_it(loaded: LoadedBase) -> None:
    assert refusal(wb.recipe(wb.read_card("sinhala-xlmr-cosine")), loaded.model) is None


def test_the_tokens_are_those_of_the_original(loaded: LoadedBase) -> None:
    """The first text and its ids are published with multilingual-e5; of all others the ids are kept here."""
    expected = json.loads((Path(__file__).parent.parent / "expected" / "multilingual_ids.json").read_text("utf-8"))
    assert expected["query: how much protein should a female eat"] == [
        0, 41, 1294, 12, 3642, 5045, 21308, 5608, 10, 117776, 73203, 2,
    ]  # fmt: skip
    assert len(expected) > 200
    assert dict(zip(expected, token_ids(loaded.model.tokenizer, list(expected)), strict=True)) == expected


def test_what_means_the_same_is_near_in_every_language(loaded: LoadedBase) -> None:
    vectors = loaded.model.encode([*KOREAN, "When does the lease end?", *SINHALA])
    near = vectors @ vectors.T
    assert near[0, 2] > near[1, 2]  # the question and its translation
    assert near[3, 4] > near[3, 5]  # a dog in a garden; rain
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_a_block_holds_32_values_low_halves_first() -> None:
    block = np.zeros(1, Q4)
    block["scale"], block["nibbles"] = 0.5, [[place | (15 - place) << 4 for place in range(16)]]
    values = [(nibble - 8) * 0.5 for nibble in (*range(16), *range(15, -1, -1))]
    assert _unpacked(block).tolist() == values


def test_a_character_is_replaced_as_the_table_says() -> None:
    table = {"ﬁ": "fi", "½": "1⁄2", "\x07": "", "한": "X", "a": "b", "\U0001f600": ":)", "\u200d": " "}
    normalizer = normalizers.Precompiled(character_map(table))
    for character, replacement in table.items():
        assert normalizer.normalize_str(character) == replacement
    assert normalizer.normalize_str("cﬁd½ 글\x07") == "cfid1⁄2 글"


def test_a_missing_package_and_another_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BaseError, match="expected the package no_such_package for 'bundled:multilingual', found none"):
        data_file("no_such_package")
    (tmp_path / "another_package").mkdir()
    (tmp_path / "another_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BaseError, match="found No such file"):
        data_file("another_package")
    (tmp_path / "another_package" / "e5-small-q4.bin").write_bytes(b"E5S1")
    with pytest.raises(BaseError, match="expected weights with SHA-256 1571fc98"):
        data_file("another_package")
