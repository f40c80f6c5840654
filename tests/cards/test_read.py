"""Reading of real cards, damaged text, broken files, files beside the card, and the JSON schema.

`tests/expected/cards/*.json` holds what was read from 28 real cards after a person compared it with the card: numbers,
names, counts and hashes. `python tests/cards/test_read.py` writes them again; review the difference before committing.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_cache import cached_model
from markdown_it import MarkdownIt

from workbench.audit.rules import audit
from workbench.cards import lookup
from workbench.cards.card import Card, Loss, Stated
from workbench.cards.read import card_from_dict, card_to_dict, parse_card, read_card, shipped_cards
from workbench.cards.text import MAX_BYTES, split_lines
from workbench.errors import CardError

HERE = Path(__file__).resolve().parents[1]
CARDS = HERE.parents[1] / "shared" / "cards"
EXPECTED = HERE / "expected" / "cards"
SEEDS = sorted(path.stem for path in (CARDS / "seeds").glob("*.md"))
REAL = sorted(path.parent for path in (CARDS / "real").rglob("README.md"))
ALL = [*(CARDS / "seeds" / f"{name}.md" for name in SEEDS), *REAL]

MINIMAL = "---\ntags:\n- sentence-transformers\n---\n\n# A model\n\n{}\n"

pytestmark = pytest.mark.skipif(not CARDS.is_dir(), reason=f"no real cards at {CARDS}")


def card_of(body: str, header: str = "") -> Card:
    text = MINIMAL.format(body)
    return parse_card(text.replace("---\n\n#", f"{header}---\n\n#").encode(), name="made")


def name_of(path: Path) -> str:
    return path.stem if path.suffix == ".md" else path.name


def digest(card: Card) -> dict[str, Any]:
    """What a card says without its sentences: long texts and samples as hashes."""
    data = card_to_dict(card, with_text=False)
    out = {key: data[key] for key in ("kind", "library_version", "base_model", "base_revision", "similarity")}
    out |= {key: data[key] for key in ("max_seq_length", "output_dimension", "languages", "license", "citations")}
    out["title"] = short(data["title"])
    out["modules"] = [[part["type"], part["architecture"], short(part["parameters"])] for part in data["modules"]]
    out["datasets"] = [
        {
            **{key: part[key] for key in ("role", "name", "id", "revision", "size", "columns", "statistics_rows")},
            "statistics": [[row["column"], row["type"], row["unit"], row["details"]] for row in part["statistics"]],
            "samples": [len(part["samples"]), short(part["samples"])],
            "loss": part["loss"],
        }
        for part in data["datasets"]
    ]
    out["non_default"] = {
        key: item if isinstance(item, int | float) else short(item) for key, item in data["non_default"].items()
    }
    out["hyperparameters"] = [len(data["hyperparameters"]), short(data["hyperparameters"])]
    log = data["training_log"]
    out["training_log"] = [len(log), log[:1], log[-1:], short(log)]
    out["evaluations"] = [
        {key: part[key] for key in ("evaluator", "name", "datasets", "parameters", "metrics", "main_metric")}
        for part in data["evaluations"]
    ]
    out["model_index"] = [len(data["model_index"]), short(data["model_index"])]
    out["versions"] = data["versions"]
    out["training_time"] = data["training_time"]
    out["beside"] = sorted(data["beside"])
    out["unread"] = [[short(part["section"]), part["lines"]] for part in data["unread"]]
    out["text"] = [data["text"]["repaired"], data["text"]["lost"]]
    out["lines"] = short(data["lines"])
    out["not_numbers"] = data["not_numbers"]
    return out


def short(item: Any) -> Any:
    """Text up to 60 characters as it is, everything longer as the start of its SHA-256."""
    text = item if isinstance(item, str) else json.dumps(item, sort_keys=True, ensure_ascii=False)
    if len(text) <= 60:
        return item
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


# -- real cards ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_a_real_card_reads_and_survives_json(path: Path) -> None:
    card = read_card(path)
    assert card_from_dict(json.loads(json.dumps(card_to_dict(card), allow_nan=False))) == card
    assert card.kind != "unknown"
    assert "not understood" in repr(card) or not card.unread
    assert card._repr_html_().count("<table>") == 1


@pytest.mark.parametrize("path", [path for path in ALL if (EXPECTED / f"{name_of(path)}.json").exists()], ids=name_of)
def test_a_card_reads_as_reviewed(path: Path) -> None:
    expected = json.loads((EXPECTED / f"{name_of(path)}.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(digest(read_card(path)))) == expected


def test_enough_cards_were_reviewed() -> None:
    reviewed = {path.stem for path in EXPECTED.glob("*.json")}
    assert reviewed >= set(SEEDS)
    assert len(reviewed - set(SEEDS)) >= 15


def searched(lines: list[str], pattern: str) -> int:
    return sum(1 for line in lines if re.match(pattern, line))


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_counts_agree_with_a_plain_search(path: Path) -> None:
    """What a search of the lines finds without knowing any structure: nothing is read twice or left out."""
    card = read_card(path)
    lines = list(card.lines)
    assert searched(lines, r"[*-] Size: [\d,]+ (training|evaluation) samples") == sum(
        part.size is not None for part in card.datasets
    )
    assert searched(lines, r"[*-] Columns: ") == sum(bool(part.columns) for part in card.datasets)
    assert searched(lines, r"[*-] Loss: ") == sum("loss" in part.facts for part in card.datasets if part.columns)
    assert searched(lines, r"[*-] Evaluated with ") == len({part.lines for part in card.evaluations})
    assert searched(lines, r"- `\w+`:") == len(card.hyperparameters) + len(card.non_default) or not card.non_default
    steps = searched(lines, r"\| +\**-?[\d.]+\** +\| +\**-?\d+\** +\|")
    assert steps == sum(row.source == "README.md" for row in card.training_log)
    values = searched(lines, r"\s+value: ")
    assert values - searched(lines, r"\s+value: (?!-?[\d.])") <= len(card.model_index) <= values
    assert searched(lines, r"- (Python|Transformers|PyTorch|Accelerate|Datasets|Tokenizers): \d") == sum(
        name not in ("Sentence Transformers", "PyLate") and stated.source == "README.md"
        for name, stated in card.versions.items()
    )


def stated_facts(card: Card) -> Iterator[tuple[Stated[Any], str]]:
    for stated in (card.base_model, card.base_revision, card.similarity, card.max_seq_length, card.output_dimension):
        if stated is not None:
            yield stated, str(stated.value)
    for name, stated in {**card.hyperparameters, **card.non_default}.items():
        yield stated, f"`{name}`" if card.non_default else ""
    for name, stated in card.versions.items():
        yield stated, f"{name}: {stated.value}"


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_every_fact_is_on_its_line(path: Path) -> None:
    card = read_card(path)
    for stated, shown in stated_facts(card):
        if stated.source == "README.md":
            assert stated.line is not None
            assert shown in card.lines[stated.line - 1]
    for row in card.training_log:
        if row.line is not None and row.step is not None:
            assert f" {row.step} " in card.lines[row.line - 1].replace("*", " ")
    for result in card.model_index:
        assert result.line is not None
        assert "value:" in card.lines[result.line - 1]
    for part in card.evaluations:
        for name, line in part.metric_lines.items():
            assert name in card.lines[line - 1]
    for dataset in card.datasets:
        for fact, line in dataset.facts.items():
            words = {"name": "Dataset", "id": "Dataset", "revision": "Dataset", "statistics": "Approximate"}
            assert words.get(fact, fact).lower() in card.lines[line - 1].lower()


@pytest.mark.parametrize("path", [path for path in REAL if (path / "trainer_state.json").exists()], ids=name_of)
def test_the_log_equals_the_trainer_state_beside_it(path: Path) -> None:
    check_log(read_card(path))


def test_the_log_of_a_seed_equals_its_trainer_state() -> None:
    card = read_card(CARDS / "seeds-clean" / "hotpotqa-distilbert-energy.md")
    assert check_log(card) == 478


def check_log(card: Card) -> int:
    names = {"loss": "training_loss", "eval_loss": "validation_loss"}
    left_out = ("_runtime", "_per_second", "epoch", "step", "learning_rate", "grad_norm", "total_flos", "train_loss")
    logged = {}
    for row in card.training_log:
        logged[row.step, "training_loss"], logged[row.step, "validation_loss"] = row.training_loss, row.validation_loss
        logged |= {(row.step, name): item for name, item in row.metrics.items()}
    checked = 0
    for entry in card.beside["trainer_state.json"]["log_history"]:
        for key, item in entry.items():
            if not key.endswith(left_out):
                found = logged[entry["step"], names.get(key, key.removeprefix("eval_"))]
                assert found == pytest.approx(item, abs=5.1e-5)
                checked += 1
    assert checked > 0
    return checked


# -- damaged text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SEEDS if name != "korean-law-lora"])
def test_a_damaged_seed_reads_as_its_clean_original(name: str) -> None:
    damaged = card_to_dict(read_card(CARDS / "seeds" / f"{name}.md"))
    clean = card_to_dict(parse_card((CARDS / "seeds-clean" / f"{name}.md").read_bytes(), name=name))
    counts, none = damaged.pop("text"), clean.pop("text")
    assert damaged.pop("sha256") != clean.pop("sha256")
    assert damaged == clean
    assert counts["lost"] == none["lost"] == none["repaired"] == 0
    characters = sum(not character.isascii() for line in damaged["source"] for character in line)
    assert counts["repaired"] == characters
    assert set(counts["original"]) == {str(line) for line in counts["repaired_lines"]}


def test_the_korean_seed_loses_what_was_lost_and_nothing_else() -> None:
    damaged = read_card(CARDS / "seeds" / "korean-law-lora.md")
    clean = parse_card((CARDS / "seeds-clean" / "korean-law-lora.md").read_bytes(), name="korean-law-lora")
    lost = 0
    for mine, theirs in zip(damaged.lines, clean.lines, strict=True):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            assert one in (other, "\N{REPLACEMENT CHARACTER}")
            lost += one != other
    assert damaged.text.lost == lost == 465
    assert damaged.text.repaired == 1215
    same = {key for key in card_to_dict(clean) if card_to_dict(clean)[key] == card_to_dict(damaged)[key]}
    assert set(card_to_dict(clean)) - same == {"datasets", "front_matter", "text", "source", "sha256"}
    for mine_set, their_set in zip(damaged.datasets, clean.datasets, strict=True):
        assert mine_set.statistics == their_set.statistics
        assert mine_set.loss == their_set.loss


def test_only_the_encoding_is_repaired() -> None:
    card = card_of("\u201cquotes\u201d \ufb01 ligature \u0085 caf\u00c3\u00a9 na\u00efve \u2026 5 \u00b0C")
    assert card.lines[7] == "\u201cquotes\u201d \ufb01 ligature \u0085 caf\u00e9 na\u00efve \u2026 5 \u00b0C"
    assert card.text.original[8].endswith("\u00b0C")


@pytest.mark.parametrize("ending", ["\r\n", "\r\r\n", "\r"])
def test_line_ends_of_every_kind_read_the_same(ending: str) -> None:
    data = (CARDS / "seeds-clean" / "porsche-mxbai.md").read_bytes()
    plain = card_to_dict(parse_card(data, name="x"))
    other = card_to_dict(parse_card(data.replace(b"\n", ending.encode()), name="x"))
    assert plain.pop("sha256") != other.pop("sha256")
    assert plain == other


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    assert split_lines("a\r\nb\r\r\nc\rd\ne\u2028f\x85g") == ["a", "b", "c", "d", "e\u2028f\x85g"]


def test_damage_in_part_of_the_text_is_counted_exactly() -> None:
    """A dash, four quotes and three degree signs of the data itself were wrongly decoded, on three lines."""
    path = CARDS / "real" / "micchyboy237__jet_python_modules__static-retrieval-mrl-en"
    text = read_card(path).text
    assert (text.repaired, text.lost, len(text.repaired_lines)) == (8, 0, 3)


# -- oddities of the format ------------------------------------------------------------------------------------------

DATASET = """### Training Dataset

#### Unnamed Dataset

* Size: 3 training samples
* Columns: <code>a</code> and <code>b</code>
* Samples:
  | a                | b                 |
  |:-----------------|:------------------|
{}
* Loss: <code>pylate.losses.contrastive.Contrastive</code>
"""


@pytest.mark.parametrize(
    ("row", "sample"),
    [
        ("  | <code>x | y</code> | <code>z\\|w</code> |", {"a": "x | y", "b": "z|w"}),
        ("  | <code>one<br>two</code> | <code># no heading</code> |", {"a": "one\ntwo", "b": "# no heading"}),
        ("  | <code>cut\rby\r## a return</code> | <code>z</code> |", {"a": "cut\nby\n## a return", "b": "z"}),
        ("  | <code>\x92quoted\x85</code> | <code></code> |", {"a": "\x92quoted\x85", "b": ""}),
    ],
)
def test_cells_that_break_markdown_are_read(row: str, sample: dict[str, str]) -> None:
    card = card_of(DATASET.format(row))
    assert card.datasets[0].samples == (sample,)
    assert card.datasets[0].loss is not None
    assert card.datasets[0].loss.name == "pylate.losses.contrastive.Contrastive"
    assert card.unread == ()


def test_a_card_cut_in_a_table_gives_what_is_there() -> None:
    data = (CARDS / "seeds-clean" / "porsche-mxbai.md").read_text(encoding="utf-8")
    cut = data[: data.index("| 1.1111 | 200") + 30]
    card = parse_card(cut.encode(), name="cut")
    assert [row.step for row in card.training_log] == [0, 100, 180]
    [unread] = card.unread
    assert unread.lines == (606, 606)
    assert unread.reason == "log row with other cells than its heading"
    assert unread.section.endswith("Training Details > Training Logs")


def test_a_header_that_is_never_closed_is_read() -> None:
    card = parse_card(b"---\ntags:\n- sentence-transformers\nbase_model: a/b\n\n# Title\n", name="open")
    assert card.base_model == Stated("a/b", 4)
    assert [part.reason for part in card.unread] == ["header without its closing ---"]


def test_the_good_keys_of_a_broken_header_are_read() -> None:
    card = card_of("", header="base_model: [a/b\nlicense: mit\n")
    assert card.license == "mit"
    assert card.tags == ("sentence-transformers",)
    assert [part.lines for part in card.unread] == [(4, 4)]


def test_log_cells_are_read_with_gains_bold_and_nan() -> None:
    card = card_of(
        "### Training Logs\n"
        "| Epoch | Step | Training Loss | loss | dev_ndcg@10 |\n"
        "|:-----:|:----:|:-------------:|:----:|:-----------:|\n"
        "| -1 | -1 | - | - | 0.5 (+0.25) |\n"
        "| **0.5** | **10** | **nan** | **0.25** | **-** |\n"
    )
    before, kept = card.training_log
    assert (before.step, before.epoch, before.training_loss) == (-1, -1.0, None)
    assert (before.metrics, before.gains) == ({"dev_ndcg@10": 0.5}, {"dev_ndcg@10": 0.25})
    assert kept.saved
    assert math.isnan(kept.training_loss or 0)
    assert kept.validation_loss == 0.25
    assert card_to_dict(card)["not_numbers"] == {"/training_log/1/training_loss": "nan"}


@pytest.mark.parametrize(
    ("cell", "details", "unit"),
    [
        ("<ul><li>min: 3 characters</li><li>mean: 4.5 characters</li></ul>", {"min": 3, "mean": 4.5}, "characters"),
        ("<ul><li>min: -1.5</li><li>max: nan</li></ul>", {"min": -1.5, "max": math.nan}, None),
        ("<ul><li>False: ~66.70%</li><li>True: ~33.30%</li></ul>", {"False": 0.667, "True": 0.333}, None),
        ("<ul><li>a: b: 100.00%</li></ul>", {"a: b": 1.0}, None),
        ("<ul><li>size: 5 elements</li></ul>", {"size": 5}, "elements"),
        ("<ul><li>min: 10x20 px</li><li>max: 30x40 px</li></ul>", {"min": "10x20 px", "max": "30x40 px"}, None),
        (
            "<ul><li>min: 0.50s</li><li>sampling_rate: 16000 Hz</li></ul>",
            {"min": 0.5, "sampling_rate": "16000 Hz"},
            "s",
        ),
        ("", {}, None),
    ],
)
def test_statistics_are_read_for_every_type_of_column(cell: str, details: dict[str, Any], unit: str | None) -> None:
    card = card_of(
        "### Training Dataset\n#### x\n* Columns: `a`\n* Approximate statistics based on the first 7 samples:\n"
        f"  |  | a |\n  |:--|:--|\n  | type | x.Y |\n  | modality | image |\n  | details | {cell} |\n"
    )
    [part] = card.datasets[0].statistics
    assert (part.type, part.modality, part.details, part.unit) == ("x.Y", "image", details, unit)
    assert card.datasets[0].statistics_rows == 7


LOSS = "### Training Dataset\n#### x\n* Loss: <code>Outer</code> with these parameters:\n  ```json\n{}\n  ```\n"


@pytest.mark.parametrize(
    ("block", "chain"),
    [
        ('  {"loss": "Inner", "k": [1, 2]}', [("Outer", {"k": [1, 2]}), ("Inner", {})]),
        (
            """  {"loss": "Middle(a=1, loss='Inner(b=None)', f=<function f at 0x7f>)"}""",
            [("Outer", {}), ("Middle", {"a": 1, "f": "<function f at 0x7f>"}), ("Inner", {"b": None})],
        ),
        ("  {'margin': 0.5,\n   'f': <function g at 0x1>,\n   't': (1, 2)}", [("Outer", {
            "margin": 0.5, "f": "<function g at 0x1>", "t": [1, 2]})]),
    ],
)  # fmt: skip
def test_loss_trees_are_read_in_every_printed_form(block: str, chain: list[tuple[str, Any]]) -> None:
    card = card_of(LOSS.format(block))
    loss = card.datasets[0].loss
    assert loss is not None
    assert [(node.name, node.parameters) for node in loss.chain()] == chain
    assert card.unread == ()


def test_headings_inside_code_are_not_headings() -> None:
    card = card_of("## Usage\n```python\n# Training Details\n### Training Logs\n```\n\n## Mine\n\nwords")
    assert [part.section for part in card.unread] == ["A model > Mine"]


def test_one_table_for_two_datasets() -> None:
    card = card_of(
        "## Evaluation\n\n### Metrics\n\n#### Triplet\n\n* Datasets: `one` and `two`\n"
        "* Evaluated with <code>__main__.Mine</code>\n\n"
        "| Metric | one | two |\n|:--|:--|:--|\n| **acc** | **0.5** | **nan** |\n"
    )
    one, two = card.evaluations
    assert (one.datasets, two.datasets) == (("one",), ("two",))
    assert one.lines == two.lines
    assert (one.evaluator, one.main_metric, one.metrics) == ("__main__.Mine", "acc", {"acc": 0.5})
    assert math.isnan(two.metrics["acc"])


def test_a_card_of_the_plain_trainer_is_read() -> None:
    card = card_of(
        "## Model Details\n- **Base model:** [a/b](https://huggingface.co/a/b)\n\n"
        "### Training hyperparameters\n- learning_rate: 2e-05\n- optimizer: Adam with betas=(0.9,0.999)\n\n"
        "### Training results\n| Training Loss | Epoch | Step | Validation Loss |\n|:---|:---|:---|:---|\n"
        "| 0.5 | 1.0 | 10 | 0.25 |\n\n### Framework versions\n- Transformers 4.30.2\n- Python: 3.11\n"
    )
    assert card.base_model == Stated("a/b", 9)
    assert card.hyperparameters == {
        "learning_rate": Stated(2e-05, 12), "optimizer": Stated("Adam with betas=(0.9,0.999)", 13),
    }  # fmt: skip
    [row] = card.training_log
    assert (row.epoch, row.step, row.training_loss, row.validation_loss) == (1.0, 10, 0.5, 0.25)
    assert {name: stated.value for name, stated in card.versions.items()} == {
        "Transformers": "4.30.2",
        "Python": "3.11",
    }
    assert card.unread == ()


def test_unrounded_results_with_their_lines() -> None:
    card = card_of(
        "",
        header=(
            "model-index:\n- name: m\n  results:\n  - task:\n      type: triplet\n      name: Triplet\n"
            "    dataset:\n      name: my dev\n      type: my_dev\n    metrics:\n"
            "    - type: acc\n      value: 0.123456789012345\n    - type: bad\n      value: .nan\n"
            "    - type: gain\n      value: 0.5 (+0.25)\n    - type: none\n      value: much\n"
        ),
    )
    acc, bad, gain = card.model_index
    assert (acc.task, acc.dataset, acc.metric, acc.value, acc.line) == (
        "Triplet",
        "my_dev",
        "acc",
        0.123456789012345,
        15,
    )
    assert math.isnan(bad.value)
    assert (gain.value, gain.line) == (0.5, 19)


def test_times_and_emissions_are_read() -> None:
    card = card_of(
        "### Environmental Impact\nCarbon emissions were measured using [CodeCarbon](https://x).\n"
        "- **Energy Consumed**: 0.123 kWh\n\n### Training Hardware\n- **On Cloud**: No\n- **GPU Model**: 2 x L40\n\n"
        "### Training Time\n- **Training**: 1.6 hours\n"
    )
    assert {name: stated.value for name, stated in card.training_time.items()} == {
        "Energy Consumed": "0.123 kWh", "On Cloud": "No", "GPU Model": "2 x L40", "Training": "1.6 hours",
    }  # fmt: skip
    assert card.training_time["Training"].line == 17
    assert card.unread == ()


def test_a_card_without_a_header() -> None:
    card = parse_card(b"# X\n\n### Model Description\n- **Model Type:** Cross Encoder\n", name="bare")
    assert (card.kind, card.tags, dict(card.front_matter)) == ("cross-encoder", (), {})


# -- files beside the card -------------------------------------------------------------------------------------------


def test_files_beside_a_seed_are_found_by_its_name() -> None:
    card = read_card(CARDS / "seeds-clean" / "porsche-mxbai.md")
    assert set(card.beside) == {"adapter_config.json", "config_sentence_transformers.json"}
    assert card.beside["adapter_config.json"]["use_dora"] is True


def test_files_complete_a_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(MINIMAL.format(""), encoding="utf-8")
    files: dict[str, Any] = {
        "sentence_bert_config.json": {"max_seq_length": 77},
        "adapter_config.json": {"base_model_name_or_path": "a/b"},
        "config_sentence_transformers.json": {
            "similarity_fn_name": "dot",
            "__version__": {"sentence_transformers": "9"},
        },
        "modules.json": [{"idx": 0, "type": "sentence_transformers.models.Transformer"}],
        "trainer_state.json": {
            "log_history": [{"step": 5, "epoch": 0.5, "loss": 0.25}, {"step": 5, "eval_loss": 0.125}]
        },
        "config.json": "no object",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "similarity_results.csv").write_text("epoch,steps,spearman\n1,5,0.5\n", encoding="utf-8")
    card = read_card(tmp_path)
    assert card.max_seq_length == Stated(77, None, "sentence_bert_config.json")
    assert card.base_model == Stated("a/b", None, "adapter_config.json")
    assert card.similarity == Stated("dot", None, "config_sentence_transformers.json")
    assert card.versions["Sentence Transformers"].source == "config_sentence_transformers.json"
    assert [module.type for module in card.modules] == ["Transformer"]
    assert (card.training_log[0].training_loss, card.training_log[0].validation_loss) == (0.25, 0.125)
    assert card.training_log[0].source == "trainer_state.json"
    assert card.beside["eval/similarity_results.csv"] == [{"epoch": 1, "steps": 5, "spearman": 0.5}]
    assert card_from_dict(card_to_dict(card)) == card


def test_a_broken_file_beside_is_listed_as_unread(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(MINIMAL.format(""), encoding="utf-8")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    [unread] = read_card(tmp_path).unread
    assert (unread.section, unread.reason) == (
        "config.json", "file beside the card that cannot be read: JSONDecodeError"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["config.json", "eval/dev_results.csv", "adapter_config.json"])
def test_a_git_lfs_pointer_is_named(name: str) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
    [unread] = parse_card(MINIMAL.format("").encode(), name="x", beside={name: pointer}).unread
    assert (unread.section, unread.reason) == (name, lookup.POINTER)
    with pytest.raises(CardError, match="found a Git LFS pointer in 'x'; run `git lfs pull` in its repository"):
        parse_card(pointer, name="x")


@pytest.mark.parametrize(
    "word", ["1e999", "-1e999", "1e-320", "9" * 5000, "1" + ",000" * 2000, "²", "1e+9999999999", "auto", "1__0"]
)
def test_a_word_that_is_no_safe_number_stays_text(word: str) -> None:
    card = card_of(f"### Training Hyperparameters\n- `learning_rate`: {word}\n", f"x: {word}\n")
    assert card.hyperparameters["learning_rate"].value == word
    assert lookup.number(card, "learning_rate") is None
    log = card_of(f"### Training Logs\n| Epoch | Step | Training Loss |\n|:-|:-|:-|\n| {word} | 5 | 0.5 |\n")
    assert log.training_log[0].epoch is None
    assert log.unread[0].reason.startswith("log cell that is no number: ")


@pytest.mark.parametrize("word", ["0x" + "f" * 20_000, "[0x" + "f" * 20_000 + "]", "{0x" + "f" * 20_000 + ": 1}"])
def test_an_integer_of_more_digits_than_python_prints_is_cut(word: str) -> None:
    modules = f"### Full Model Architecture\n```\nS(\n  (0): A(b={word})\n)\n```\n"
    card = card_of(f"### Training Hyperparameters\n- `x`: {word}\n{modules}")
    json.dumps(card_to_dict(card), allow_nan=False)
    assert len(str(card.modules[0].parameters["b"])) < 200


def test_of_two_cards_in_one_file_the_first_is_read() -> None:
    one = MINIMAL.format("### Model Description\n- **Output Dimensionality:** 64 dimensions\n")
    card = parse_card((one + one.replace("64", "32")).encode(), name="two")
    assert card.output_dimension == Stated(64, 9)
    assert [(part.lines, part.reason) for part in card.unread] == [((11, 21), lookup.SECOND)]


def test_a_card_of_setfit_is_named_and_read() -> None:
    body = (
        "## Model Details\n- **Model Type:** SetFit\n## Evaluation\n### Metrics\n| Label | Accuracy | F1 |\n"
        "|:-|:-|:-|\n| **all** | 0.857 | 0.5 |\n| spam | 0.9 | - |\n## Training Details\n"
        "### Training Hyperparameters\n- num_epochs: (1, 16)\n- loss: CosineSimilarityLoss\n- seed: 42\n"
    )
    card = card_of(body)
    assert card.kind == "setfit"
    assert card.evaluations[0].metrics == {"accuracy": 0.857, "f1": 0.5, "accuracy of spam": 0.9}
    assert [part.reason for part in card.unread] == ["metric whose value is no number: '-'"]
    assert card.training_datasets()[0].loss == Loss("CosineSimilarityLoss", {}, None, 19)
    assert (lookup.epochs(card), lookup.has_trainer(card)) == (1, False)


def test_a_training_told_in_other_words_is_not_denied() -> None:
    told = audit(card_of("We fine-tuned it for three epochs.")).reproducibility.verdict
    assert told == "What the card says of its training (line 8) was not understood, so no run is known."
    silent = audit(card_of("It is small.")).reproducibility.verdict
    assert silent == "The card describes no training, so there is nothing to run again."


# -- what is no card -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b" \n", "Expected the text of a model card, found an empty file in 'x'; pass the README.md."),
        (
            b"\x89PNG\r\n\x1a\n\0\0",
            "Expected the Markdown text of a model card, found binary data in 'x' (it starts with "
            "b'\\x89PNG\\r\\n\\x1a\\n'); pass the model's README.md.",
        ),
        (
            b"# Shopping\n\n- milk\n",
            "Expected the model card of a Sentence Transformers model, found a text without any of its marks in 'x' "
            "(it starts with '# Shopping'); pass the model's README.md.",
        ),
    ],
)
def test_what_is_no_card_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(CardError) as caught:
        parse_card(data, name="x")
    assert str(caught.value) == message


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.md"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    with pytest.raises(CardError) as caught:
        read_card(path)
    assert str(caught.value) == (
        f"Expected a model card of at most {MAX_BYTES:,} bytes, found 50,000,000 in {str(path)!r}; "
        "pass the model's README.md."
    )


def test_places_without_a_card_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"^Expected a README\.md in the folder '.*', found none; pass the folder of a"):
        read_card(tmp_path)
    with pytest.raises(CardError, match=r"^Expected a Markdown file, a folder with a README\.md, a shipped card"):
        read_card(tmp_path / "missing.md")


def test_a_hub_id_fails_at_once_without_a_network() -> None:
    start = time.monotonic()
    with pytest.raises(CardError) as caught:
        read_card("somebody/some-model-that-is-nowhere")
    assert time.monotonic() - start < 5
    assert "fetch it with `hf download somebody/some-model-that-is-nowhere README.md`" in str(caught.value)


def test_a_hub_that_cannot_be_reached_fails_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(CardError, match=r"found none: asking the Hub failed \(.*\); fetch it with"):
        read_card("somebody/some-model-that-is-nowhere")
    assert time.monotonic() - start < 5


def test_a_card_in_the_local_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    snapshot = tmp_path / "models--a--b" / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "refs").mkdir()
    (tmp_path / "models--a--b" / "refs" / "main").write_text("1234", encoding="utf-8")
    (snapshot / "README.md").write_text(MINIMAL.format(""), encoding="utf-8")
    (snapshot / "sentence_bert_config.json").write_text('{"max_seq_length": 9}', encoding="utf-8")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    card = read_card("a/b")
    assert (card.name, card.max_seq_length) == ("b", Stated(9, None, "sentence_bert_config.json"))


def test_a_revision_is_of_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for reference, commit, rows in (("main", "1" * 40, 5), ("v2", "2" * 40, 9)):
        (folder := tmp_path / reference).mkdir()
        (folder / "README.md").write_text(MINIMAL.format(""), encoding="utf-8")
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": rows}), encoding="utf-8")
        cached_model(tmp_path / "cache", folder, "a/b", commit, reference)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    found = [read_card("a/b", revision=each).max_seq_length for each in (None, "v2", "2" * 40)]
    assert [stated.value for stated in found if stated] == [5, 9, 9]
    with pytest.raises(CardError, match=r"fetch it with `hf download a/b README.md --revision v3`"):
        read_card("a/b", revision="v3")
    with pytest.raises(CardError, match="Expected the id of a model on the Hub"):
        read_card(tmp_path / "main", revision="v2")


def test_an_id_that_cannot_be_one() -> None:
    with pytest.raises(CardError) as caught:
        read_card("a/b..c")
    assert str(caught.value) == (
        "Expected the id of a model on the Hub, found 'a/b..c', which cannot be one; pass owner/model."
    )


def test_shipped_cards_are_named_by_their_files() -> None:
    for name in shipped_cards():
        assert read_card(name).name == name


def test_json_of_something_else_is_refused() -> None:
    with pytest.raises(CardError) as caught:
        card_from_dict({"schema_version": 99})
    assert str(caught.value) == (
        "Expected a card in schema version 1, found 99; write it again with `workbench show CARD --json`."
    )
    with pytest.raises(
        CardError,
        match=r"^Expected a card as `workbench show CARD --json` prints it, found data without 'name'; write it",
    ):
        card_from_dict({"schema_version": 1, "lines": {}, "sources": {}})
    stored = card_to_dict(card_of("")) | {"kind": "a kind"}
    with pytest.raises(
        CardError, match=r"found data without a valid kind \(Input should be 'sentence-transformer', .*\)"
    ):
        card_from_dict(stored)


# -- hostile cards ---------------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"b{n}: &b{n} [{', '.join(['*b' + str(n - 1) if n else '*a'] * 9)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    "header",
    [
        LAUGHS,
        "a: &a [*a]\n",
        "a: " + "[" * 50_000 + "\n",
        "a:\n" + "".join(" " * depth + "a:\n" for depth in range(1, 900)),
        "- " * 30_000 + "\n",
        "a: !!python/object/apply:os.abort []\n",
        "a: &a {x: 1}\nb: {<<: [*a, *a]}\n",
        "a: " + "9" * 10_000 + "\n",
    ],
)
def test_a_hostile_header_harms_nothing(header: str) -> None:
    start = time.process_time()
    card = card_of("### Framework Versions\n- Python: 3", header=header)
    json.dumps(card_to_dict(card), allow_nan=False)
    assert time.process_time() - start < 2
    assert card.versions["Python"].value == "3"


@pytest.mark.parametrize(
    "body",
    [
        "### Model Description\n- **Base model:** " + "[" * 100_000,
        "### Model Description\n- **x:** " + "<!--" * 50_000,
        "### Full Model Architecture\n```\nSentenceTransformer(\n  (0): Transformer(" + "(" * 100_000 + "\n```",
        "#### All Hyperparameters\n\n- `a`: [" + "-" * 100_000 + "1]",
        "### Training Dataset\n* Loss: <code>X</code> with these parameters:\n  ```json\n  "
        + "[" * 100_000
        + "\n  ```",
        "### Training Dataset\n* Columns: " + "<code>" * 30_000,
        "|" * 100_000 + "\n|" + "-|" * 50_000 + "\n" + "|" * 100_000,
        "| a |\n|---|\n" + "| <code>x\n" * 20_000,
        "# a\n" * 60_000,
        ">" * 50_000,
        " " * 200_000 + "|",
        "<!--\n" * 30_000,
        "It maps " + "1" * 200_000,
        "\u00c3\u00a2\u00e2\u201a\u00ac" * 10_000,
    ],
    ids=range(14),
)
def test_a_hostile_body_takes_no_time(body: str) -> None:
    start = time.process_time()
    card_of(body)
    assert time.process_time() - start < 4


def test_texts_of_a_card_are_escaped_in_a_notebook() -> None:
    card = card_of("### Model Description\n- **Base model:** <script>alert(1)</script>\n")
    assert "<script>" not in card._repr_html_()


# -- speed -----------------------------------------------------------------------------------------------------------


def test_reading_is_fast_and_needs_no_heavy_library() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); from workbench.cards.read import read_card\n"
        f"read_card({str(CARDS / 'seeds' / 'hotpotqa-distilbert-energy.md')!r})\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'numpy', 'pandas', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "path",
    [
        "seeds/hotpotqa-distilbert-energy.md",
        "real/micchyboy237__jet_python_modules__static-retrieval-mrl-en/README.md",
    ],
)
def test_reading_takes_less_time_than_parsing_its_markdown(path: str) -> None:
    """Measured: half of what the Markdown parser takes for the whole text."""
    data = (CARDS / path).read_bytes()
    parser, text = MarkdownIt("commonmark").enable("table"), data.decode("utf-8")
    times: dict[str, list[float]] = {"read": [], "parse": []}
    for _ in range(7):
        for name, do in (("read", lambda: parse_card(data, name="x")), ("parse", lambda: parser.parse(text))):
            start = time.process_time()
            do()
            times[name].append(time.process_time() - start)
    assert min(times["read"]) < min(times["parse"])


def write_expected() -> None:
    EXPECTED.mkdir(parents=True, exist_ok=True)
    for path in ALL:
        if name_of(path) in SEEDS or (EXPECTED / f"{name_of(path)}.json").exists():
            text = json.dumps(digest(read_card(path)), indent=1, ensure_ascii=False) + "\n"
            (EXPECTED / f"{name_of(path)}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_expected()
