"""Stand-ins are made the same way each time, whole or not at all, and the right one is taken, with the reason."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from workbench.data.collection import from_pairs
from workbench.data.training_rows import load_splits
from workbench.errors import BaseError
from workbench.evaluation.retrieval import evaluate
from workbench.models import stand_ins
from workbench.models.base import load_base, load_folder, token_counts, weights_sha256
from workbench.models.encoding import encoder
from workbench.models.stand_ins import (
    BUNDLED,
    SCRATCH,
    STATIC,
    bundled_folder,
    scratch_folder,
    static_folder,
    unknown_share,
)
from workbench.recipe.schema import Base, Data, Lora, Source, Split

SINHALA = [
    "ශ්‍රී ලංකාව ලස්සන රටකි.",
    "මගේ බල්ලා උයනේ දුවනවා.",
    "බල්ලෙක් උයනේ සෙල්ලම් කරයි.",
    "ක්‍රීඩාව සෞඛ්‍යයට හොඳයි.",
    "අද වැස්සක් නැත.",
    "ලංකාවේ අද වැස්ස.",
] * 2
ENGLISH = ["The wheel of the car is round.", "How many seats does it have?"]


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


def test_a_small_bert_stands_in_where_the_bundled_vocabulary_is_unsuited() -> None:
    loaded = load_base(Base(model="somebody/large", max_seq_length=100), texts=SINHALA, seed=1)
    assert (loaded.name, loaded.stand_in, loaded.unknown_share) == (SCRATCH, True, 0.0)
    start, rest = loaded.note.split("does not know ")
    assert start == (
        "The base scratch:small stands in for somebody/large (it is not cached and not reachable): a small BERT with "
        "random weights and a tokenizer that is trained on the rows' own texts, because the tokenizer of "
        "bundled:minilm "
    )
    assert 50 < int(rest.split("%")[0]) < 100
    assert rest.endswith("% of the tokens in them; nothing measured on it is a reproduction.")
    assert loaded.model.max_seq_length == 100


def test_the_bundled_model_gives_way_to_a_better_stand_in() -> None:
    loaded = load_base(Base(model="somebody/large"), BUNDLED, texts=SINHALA)
    assert (loaded.name, loaded.asked) == (SCRATCH, BUNDLED)
    assert loaded.note.startswith(
        "The base scratch:small stands in for somebody/large (bundled:minilm was asked for): "
    )
    assert load_base(Base(model="a/b", static_dimensions=64), BUNDLED).name == STATIC
    assert load_base(Base(model="a/b"), BUNDLED, texts=ENGLISH).name == BUNDLED
    assert load_base(BUNDLED, texts=SINHALA).name == BUNDLED  # no card that it would stand in for


def test_lora_and_prompts_of_the_recipe_are_put_on_a_stand_in() -> None:
    wanted = Base(model="a/b", lora=Lora(r=2), prompts={"query": "ask: ", "document": ""})
    loaded = load_base(wanted, SCRATCH, texts=SINHALA, seed=1)
    trained = [name for name, weight in loaded.model.named_parameters() if weight.requires_grad]
    assert len(trained) == 3 * 2 * 2  # layers, query and value, A and B
    assert all("lora_" in name for name in trained)
    encode = encoder(loaded.model)
    np.testing.assert_allclose(encode(["බල්ලා"], "query"), encode(["ask: බල්ලා"], "document"), atol=1e-6)


def test_lora_on_a_static_embedding_is_left_out_with_a_note() -> None:
    loaded = load_base(Base(model="a/b", lora=Lora()), STATIC)
    assert loaded.note.endswith(
        "LoRA needs a transformer, which bundled:static is not, so all of its weights are trained."
    )
    assert all(weight.requires_grad for weight in loaded.model.parameters())


def test_an_unknown_stand_in_is_an_error() -> None:
    with pytest.raises(BaseError) as caught:
        load_base(Base(model="a/b"), "scratch:large")
    assert str(caught.value) == (
        "expected 'bundled:minilm', 'bundled:static' or 'scratch:small', found 'scratch:large'; there are only these."
    )


# --- unknown tokens ------------------------------------------------------------------------------------------------


def test_unknown_tokens_are_counted_without_special_ones() -> None:
    """By the bundled vocabulary: `the`, `car`, `.`, and a Tamil word that is one unknown token."""
    model = load_folder(bundled_folder(), BUNDLED)
    assert unknown_share(model.tokenizer, ["the car.", "வணக்கம்"]) == 1 / 4
    assert unknown_share(model.tokenizer, []) == 0.0
    table = load_folder(static_folder(bundled_folder(), 64), STATIC)
    assert unknown_share(table.tokenizer, ["the car.", "வணக்கம்"]) == 1 / 4
    assert token_counts(table, ["the car.", "வணக்கம்"]) == ([3, 1], [0, 1])


def test_unknown_tokens_of_a_unigram_tokenizer_are_counted() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("car", -1.0), ("the", -2.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert unknown_share(tokenizer, ["the car", "the wheel"]) == 1 / 4


def test_a_byte_level_tokenizer_has_no_unknown_tokens() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert unknown_share(tokenizer, ["வணக்கம்"]) == 0.0


def test_a_long_list_is_sampled_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "UNKNOWN_SAMPLE", 4)
    model = load_folder(bundled_folder(), BUNDLED)
    assert unknown_share(model.tokenizer, ["car"] * 50 + ["வணக்கம்"] * 50) == 0.5


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


# --- the small BERT ------------------------------------------------------------------------------------------------


def test_the_same_texts_and_seed_give_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = scratch_folder(SINHALA, 1)
    assert scratch_folder(SINHALA[::-1], 1) == folder
    other = scratch_folder(SINHALA, 2)
    assert weights_sha256(other) != weights_sha256(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again = scratch_folder(SINHALA, 1)
    assert weights_sha256(again) == weights_sha256(folder)
    assert (again / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_marks_and_joiners_are_kept() -> None:
    tokenizer = load_folder(scratch_folder(SINHALA, 1), SCRATCH).tokenizer
    with_joiner, without = "ශ්‍රී ලංකාව", "ශ්රී ලංකාව"
    for text in (with_joiner, without, "서울은 크다", "🚗 क्षत्रिय", "e\u0301tude"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == unicodedata.normalize("NFC", text)
    assert tokenizer(with_joiner)["input_ids"] != tokenizer(without)["input_ids"]
    assert len(tokenizer.tokenize("ලංකාව")) < len("ලංකාව")  # learned, and not spelled byte by byte


def test_texts_are_not_all_alike_at_the_start() -> None:
    model = load_folder(scratch_folder(SINHALA, 1), SCRATCH)
    vectors = model.encode(SINHALA[:6], normalize_embeddings=True, show_progress_bar=False)
    cosines = vectors @ vectors.T  # (6, 6)
    assert cosines[np.triu_indices(6, 1)].mean() < 0.6
    assert cosines[1, 2] > cosines[1, 3]  # two of a dog in the park, one of sport


def test_the_global_random_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    scratch_folder(SINHALA, 1)
    assert torch.equal(torch.rand(4), expected)


def test_a_tokenizer_without_texts_is_an_error() -> None:
    with pytest.raises(BaseError) as caught:
        load_base(Base(model="a/b"), SCRATCH, texts=["", " "])
    assert str(caught.value) == (
        "expected training texts for the base 'scratch:small', whose tokenizer is trained on them, found none; "
        "give it rows to train on or choose another base."
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
            scratch_folder(SINHALA, 1)
    assert list((tmp_path / "card-workbench").iterdir()) == []
    assert load_folder(scratch_folder(SINHALA, 1), SCRATCH).encode(["අද"], show_progress_bar=False).shape == (1, 256)


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BaseError) as caught:
        scratch_folder(SINHALA, 1)
    assert str(caught.value) == (
        f"expected a cache that can be written in '{tmp_path}/file/card-workbench' for the base that stands in, found "
        "NotADirectoryError: Not a directory; set XDG_CACHE_HOME to another folder."
    )
