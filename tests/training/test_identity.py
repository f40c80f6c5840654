"""Whether base and rows are the card's own; the library's own statistics of a dataset are the truth."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset as Table
from healthy_card import healthy, row
from sentence_transformers import SentenceTransformer
from tiny import WORDS, tiny_base

from workbench.cards.card import Card, ColumnStatistics, Dataset, Loss, Module, Stated
from workbench.errors import BaseError, DataError
from workbench.recipe.from_card import recipe
from workbench.recipe.schema import TrainingSet
from workbench.training.given import Given
from workbench.training.identity import identity, known_examples
from workbench.training.prepare import Prepared, prepare

SCORED = ("sentence1", "sentence2", "score")
Found = Mapping[str, tuple[bool, str]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "acme")


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., str]:
    def write(rows: Table, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, rows.to_list())), encoding="utf-8")
        return str(path)

    return write


def table(rows: int = 250, seed: int = 0, labels: bool = False) -> Table:
    """Texts of several lengths with a score that has many places, or a label."""
    draw = random.Random(seed)
    return Table.from_list(
        [
            {
                "sentence1": " ".join(draw.choices(WORDS, k=draw.randint(3, 40))) + f" {number}",
                "sentence2": " ".join(draw.choices(WORDS, k=draw.randint(3, 12))),
                "score": draw.randint(0, 1) if labels else draw.random(),
            }
            for number in range(rows)
        ]
    )


def shown(role: Any, rows: Table, base: Path, name: str | None = None) -> Dataset:
    """What the library prints of a dataset on a card, read as a card is read."""
    model = SentenceTransformer(str(base), device="cpu")
    statistics = []
    for column in rows.column_names:
        found = model.model_card_data._compute_column_stats(rows, column)
        words = {key: str(value).strip("~").split(" ") for key, value in found["data"].items()}
        details = {
            str(key): float(word[0].strip("%")) / (100 if word[0].endswith("%") else 1) for key, word in words.items()
        }
        unit = next((word[1] for word in words.values() if len(word) > 1), None)
        statistics.append(ColumnStatistics(column, found["dtype"], details, unit))
    return Dataset(
        role,
        name,
        size=len(rows),
        columns=tuple(rows.column_names),
        statistics=tuple(statistics),
        statistics_rows=min(len(rows), 100),
        samples=tuple(rows.to_list()[:3]),
        loss=Loss("CoSENTLoss", {}),
    )


def card(*datasets: Dataset) -> Card:
    """A card of the tiny base, in the precision that a CPU takes."""
    log = [row(1000, 0.5), row(1000, validation=0.4)]
    made = replace(healthy(), base_model=Stated("acme/base"), base_revision=None, training_log=tuple(log))
    made = replace(made, modules=(Module(0, "Pooling", {"embedding_dimension": 32}),), max_seq_length=Stated(32))
    plain = {
        name: each for name, each in made.hyperparameters.items() if name not in ("bf16", "load_best_model_at_end")
    }
    return replace(made, output_dimension=Stated(32), hyperparameters=plain, non_default={}, datasets=datasets)


def prepared(card: Card, base: str | None, data: str, held_out: str | None = None, **stated: Any) -> Prepared:
    plain = recipe(card, overrides={"data.train.location": data, "batch_sampler": "batch_sampler"})
    if held_out is not None:
        stated["evaluation_sets"] = (held_out,)
    own = {"base_is_the_cards": base is not None, **stated}
    return prepare(plain, base, card=card, given=Given(**own))


def checks(card: Card, *arguments: Any, **stated: Any) -> Found:
    return {
        each["check"]: (each["ok"], each["sentence"]) for each in identity(prepared(card, *arguments, **stated), card)
    }


@pytest.mark.parametrize("rows", [250, 60])
@pytest.mark.parametrize("labels", [False, True])
def test_the_card_s_own_rows_fit_it(rows: int, labels: bool, base: Path, put: Callable[..., str]) -> None:
    own = table(rows, labels=labels)
    found = checks(card(shown("train", own, base)), str(base), put(own))
    assert {name: ok for name, (ok, _) in found.items()} == dict.fromkeys(
        ("base", "size", "rows", "order", "statistics", "precision", "processes"), True
    )
    assert "sentence1, sentence2, score" in found["statistics"][1]


def test_rows_that_are_not_the_card_s_are_told_by_what_they_lack(base: Path, put: Callable[..., str]) -> None:
    own = table()
    made = card(shown("train", own, base))
    first = own.to_list()[:3]
    other = Table.from_list([*first, *table(247, seed=1).to_list()])  # it begins with the printed rows
    found = checks(made, str(base), put(other))
    assert (found["rows"][0], found["order"][0], found["statistics"][0]) == (True, True, False)
    mean = made.datasets[0].statistics[0].details["mean"]
    assert f"have mean {mean:g} tokens in `sentence1`, these " in found["statistics"][1]
    assert found["statistics"][1].endswith("another tokenizer; give the card's rows with --data.")
    scores = Table.from_list([{**each, "score": each["score"] / 2} for each in own.to_list()])
    found = checks(made, str(base), put(scores))
    assert (found["rows"][0], found["statistics"][0]) == (False, False)
    assert "of the 3 rows that the card prints, " in found["rows"][1].lower()
    assert "`score`" in found["statistics"][1]


def test_another_order_of_the_rows_is_no_exact_replay(base: Path, put: Callable[..., str]) -> None:
    own = table()
    made, turned = card(shown("train", own, base)), put(own.select([9, 2, 1, 0, *range(3, 9), *range(10, 250)]))
    found = checks(made, str(base), turned)
    assert found["rows"][0]
    assert not found["order"][0]
    assert "in rows 4 and 3 and 2 here: another row order, so no exact replay" in found["order"][1]
    with pytest.raises(DataError, match="--rows-in-order, found the 3 that it prints in rows 4 and 3 and 2 of"):
        checks(made, str(base), turned, rows_in_order=True)
    silent = replace(made, datasets=(replace(made.datasets[0], samples=(), statistics=()),))
    assert "order" not in checks(silent, str(base), turned)
    stated = checks(silent, str(base), turned, rows_in_order=True)
    assert stated["order"] == (True, "The user states that the rows are in the card's order.")


def test_other_counts_and_rows_of_each_dataset_are_reasons(base: Path, put: Callable[..., str]) -> None:
    one, two = table(), table(80, seed=3)
    datasets = (shown("train", one, base, "one"), shown("train", two, base, "two"))
    made = card(*datasets)
    more = {"data.more.0.source.location": put(two, "two.jsonl"), "data.train.location": put(one)}
    plain = recipe(made, overrides={**more, "batch_sampler": "batch_sampler"})
    assert isinstance(plain.data.more[0], TrainingSet)
    given = Given(base_is_the_cards=True)
    assert all(each["ok"] for each in identity(prepare(plain, str(base), card=made, given=given), made))
    (tmp := Path(plain.data.more[0].source.location)).write_text("\n".join(tmp.read_text().splitlines()[1:]))
    failed = [each for each in identity(prepare(plain, str(base), card=made, given=given), made) if not each["ok"]]
    assert {each["check"] for each in failed} == {"size", "rows", "statistics"}
    assert failed[0]["sentence"].startswith("The card counts 80 training rows; the run had 79 of 79 from ")
    assert failed[0]["sentence"].endswith("give the card's rows with --data two=PATH.")


def test_evaluation_rows_are_checked_where_they_have_a_loss(base: Path, put: Callable[..., str]) -> None:
    own, held_out = table(), table(40, seed=2)
    made = replace(card(shown("train", own, base), shown("evaluation", held_out, base)), evaluations=())
    ready = prepared(made, str(base), put(own), put(held_out, "dev.jsonl"))
    assert ready.splits.validation is not None
    assert {each["check"]: each["ok"] for each in identity(ready, made)}["evaluation rows"]
    assert known_examples(ready, made)["validation"] == {
        "same": True,
        "why": "They begin with the evaluation rows that the card prints, and are as many.",
    }
    both = Table.from_list([*own.to_list(), *held_out.to_list()])  # divided by seed 42, not as the card's were
    wrong = identity(prepared(made, str(base), put(both.shuffle(seed=1), "both.jsonl")), made)
    failed = {each["check"]: each["sentence"] for each in wrong if not each["ok"]}
    assert failed["evaluation rows"].endswith("not the first of the run's; give the card's with --evaluation-set.")


# --- base ------------------------------------------------------------------------------------------------------------


def test_a_folder_of_the_base_s_name_is_not_known_to_be_the_base(base: Path, put: Callable[..., str]) -> None:
    own = table(60)
    found = checks(card(shown("train", own, base)), str(base), put(own), base_is_the_cards=False)
    assert found["base"] == (
        False,
        f"Nothing shows that {base} is the card's base, acme/base; if it is the card's, state it with "
        "--base-is-the-cards.",
    )
    assert "sentence1" not in found["statistics"][1]  # tokens of an unknown tokenizer say nothing


def test_a_copy_of_the_hub_s_cache_is_the_base(base: Path, tmp_path: Path, put: Callable[..., str]) -> None:
    folder = tmp_path / "models--acme--base" / "snapshots" / ("a" * 40)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(base)
    copy = folder.parent / ("b" * 40)
    SentenceTransformer(str(base), device="cpu").save_pretrained(str(copy), create_model_card=False)
    own = table(60)
    made = replace(card(shown("train", own, base)), base_revision=Stated("b" * 40))
    assert checks(made, str(copy), put(own))["base"][0]
    with pytest.raises(
        BaseError, match=r"with --base-is-the-cards \(revision: ccc.*found another in .* \(revision: bbb"
    ):
        checks(replace(made, base_revision=Stated("c" * 40)), str(copy), put(own))


def test_the_bundled_model_is_all_minilm(put: Callable[..., str], base: Path) -> None:
    own = table(60)
    made = replace(card(shown("train", own, base)), base_model=Stated("sentence-transformers/all-MiniLM-L6-v2"))
    made = replace(made, modules=(), output_dimension=None)
    found = checks(made, "bundled:minilm", put(own), base_is_the_cards=False)
    assert found["base"][0]
    assert "its weights are those (SHA-256 53aa51172d14)" in found["base"][1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"modules": (Module(0, "Pooling", {"embedding_dimension": 384}),)},
            r"\(dimensions: 384\).*\(dimensions: 32\)",
        ),
        ({"modules": (Module(0, "Transformer", {}, "XLMRobertaModel"),)}, r"\(architecture: XLMRobertaModel\)"),
        ({"max_seq_length": Stated(512)}, r"\(tokens at most: 512\)"),
    ],
)
def test_a_base_that_cannot_be_the_card_s_is_refused(
    changes: dict[str, Any], said: str, base: Path, put: Callable[..., str]
) -> None:
    own = table(60)
    with pytest.raises(BaseError, match=f"expected the card's base with --base-is-the-cards {said}"):
        checks(replace(card(shown("train", own, base)), **changes), str(base), put(own))


def test_precision_and_processes_are_reasons(base: Path, put: Callable[..., str]) -> None:
    own = table(60)
    made = card(shown("train", own, base))
    half = replace(made, hyperparameters={**made.hyperparameters, "fp16": Stated(True)})
    found = checks(half, str(base), put(own))
    text = "The card trained in fp16, the run in fp32; train on a machine that has fp16."
    assert found["precision"] == (False, text)
