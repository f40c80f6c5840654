"""Cards that are cut, spliced, littered or hold wrong values: nothing crashes, hangs or gives what JSON cannot hold."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from usage import Usage

from workbench.audit.rules import audit
from workbench.cards import literals
from workbench.cards.card import Card
from workbench.cards.read import card_from_dict, card_to_dict, parse_card
from workbench.cards.text import split_lines
from workbench.errors import CardError, RecipeError, WorkbenchError
from workbench.recipe.from_card import recipe
from workbench.recipe.overrides import parse_setting, with_overrides
from workbench.recipe.yaml_io import load_recipe, save_recipe

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(ROOT.glob("data/cards/*/README.md"))
CARDS = ROOT.parent / "shared" / "cards"
PATHS = [path for path in sorted(CARDS.rglob("*.md")) if path.parent != CARDS and path.stat().st_size < 80_000]
TEXTS = [path.read_bytes() for path in PATHS or SHIPPED]
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
    message, card = "", None
    with Usage() as usage:
        try:
            card = parse_card(data, name="fuzz")
        except CardError as error:
            message = str(error)
    assert not usage.too_much
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
        st.none()
        | st.booleans()
        | st.integers(-(10**15), 10**15)
        | st.sampled_from([0.0, 1e-99])
        | st.floats(0.001, 1e99),
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


# --- cards and the files beside them, through audit and recipe ------------------------------------------------------

HEAD = """---
language: en
license: mit
tags: [sentence-transformers, "dataset_size:1000", "loss:MultipleNegativesRankingLoss"]
base_model: acme/base
pipeline_tag: sentence-similarity
model-index:
- name: x
  results:
  - task: {type: information-retrieval, name: Information Retrieval}
    dataset: {name: dev, type: dev}
    metrics:
    - {type: cosine_accuracy@1, value: 0.5944444444444444, name: A}
    - {type: cosine_ndcg@10, value: 0.7123, name: N}
---

# SentenceTransformer based on acme/base

This is a sentence-transformers model finetuned from [acme/base](https://huggingface.co/acme/base).

## Model Details
### Model Description
- **Model Type:** Sentence Transformer
- **Base model:** [acme/base](https://huggingface.co/acme/base) <!-- at revision 0123abc -->
- **Maximum Sequence Length:** 128 tokens
- **Output Dimensionality:** 64 dimensions
- **Similarity Function:** Cosine Similarity

### Full Model Architecture
```
"""
TRAINED = """```

## Evaluation
### Metrics
#### Information Retrieval
* Dataset: `dev`
* Evaluated with <code>InformationRetrievalEvaluator</code> with these parameters:
  ```json
  {"truncate_dim": 32}
  ```

| Metric | Value |
|:--|:--|
| cosine_accuracy@1 | 0.5944 |
| cosine_accuracy@3 | 0.7 |
| cosine_accuracy@10 | 0.8944 |
| cosine_precision@3 | 0.2333 |
| **cosine_ndcg@10** | **0.7123** |

## Training Details
### Training Dataset
#### json
* Dataset: json
* Size: 1,000 training samples
* Columns: <code>anchor</code>, <code>positive</code>, and <code>label</code>
* Approximate statistics based on the first 1000 samples:
  | | anchor | positive | label |
  |:--|:--|:--|:--|
  | type | string | string | int |
  | details | <ul><li>mean: 9.5 tokens</li><li>max: 128 tokens</li></ul> | - | <ul><li>0: ~30.00%</li></ul> |
* Samples:
  | anchor | positive | label |
  |:--|:--|:--|
  | <code>query: a</code> | <code>b</code> | <code>1</code> |
  | <code>query: c</code> | <code>d</code> | <code>0</code> |
* Loss: <code>MatryoshkaLoss</code> with these parameters:
  ```json
  {"loss": "MultipleNegativesRankingLoss(scale=0.05)", "matryoshka_dims": [64, 32], "matryoshka_weights": [1, 1],
   "n_dims_per_step": -1}
  ```

### Training Hyperparameters
#### Non-Default Hyperparameters

- `per_device_train_batch_size`: 8
- `learning_rate`: 2e-05
- `num_train_epochs`: 2
- `warmup_steps`: 12
- `load_best_model_at_end`: True
- `prompts`: {'anchor': 'query: '}

#### All Hyperparameters
<details><summary>Click to expand</summary>

- `gradient_accumulation_steps`: 2
- `lr_scheduler_type`: linear
- `lr_scheduler_kwargs`: {'num_cycles': 0.5}
- `max_grad_norm`: 1.0
- `seed`: 42
- `max_steps`: -1
- `batch_sampler`: no_duplicates

</details>

### Training Logs
| Epoch | Step | Training Loss | Validation Loss | dev_cosine_ndcg@10 |
|:--:|:--:|:--:|:--:|:--:|
| 0.16 | 10 | 2.1 | - | - |
| 0.32 | 20 | 1.9 | 1.2 | 0.61 |
| **0.64** | **40** | **1.7** | **1.1** | **0.7123** |
| 1.0 | 63 | - | - | - |

### Training Time
- **Training**: 2.5 minutes

### Framework Versions
- Python: 3.11.7
- Sentence Transformers: 3.3.1
- Transformers: 4.48.1
"""
BY_FIT = """```
## Training
The model was trained with the parameters:

**DataLoader**:

`torch.utils.data.dataloader.DataLoader` of length 125 with parameters:
```
{'batch_size': 8, 'sampler': 'torch.utils.data.sampler.SequentialSampler', 'batch_sampler': 'X'}
```

**Loss**:

`sentence_transformers.losses.TripletLoss.TripletLoss` with parameters:
```
{'distance_metric': 'TripletDistanceMetric.EUCLIDEAN', 'triplet_margin': 5}
```

Parameters of the fit()-Method:
```
{"epochs": 2, "evaluation_steps": 10, "optimizer_class": "<class 'torch.optim.AdamW'>",
 "optimizer_params": {"lr": 2e-05, "eps": 1e-06}, "scheduler": "WarmupLinear", "steps_per_epoch": 100,
 "warmup_steps": 10, "weight_decay": 0.01}
```
"""
BY_SETFIT = """```
- **Model Type:** SetFit
## Evaluation
### Metrics
| Label | Accuracy |
|:--|:--|
| **all** | 0.857 |

## Training Details
### Training Hyperparameters
- batch_size: (8, 8)
- num_epochs: (1, 1)
- body_learning_rate: (2e-05, 2e-05)
- loss: CosineSimilarityLoss
- use_amp: False
- seed: 42

### Training Results
| Epoch | Step | Training Loss | Validation Loss |
|:--:|:--:|:--:|:--:|
| 0.5 | 50 | 0.3 | - |
| 1.0 | 100 | 0.2 | 0.1 |
"""
MODULES = (
    "SentenceTransformer(\n  (0): Transformer({'max_seq_length': 128}) with Transformer model: BertModel \n"
    "  (1): Pooling({'word_embedding_dimension': 64, 'pooling_mode_mean_tokens': True})\n  (2): Normalize()\n)\n",
    "SentenceTransformer(\n  (0): StaticEmbedding({})\n)\n",
    "SentenceTransformer(\n  (0): Router(\n    (query): Sequential(\n      (0): Transformer({'a': 1})\n    )\n  )\n"
    "  (1): Dense({'out_features': 64})\n)\n",
    "SentenceTransformer(\n  (0): Transformer({}) with Transformer model: PeftModelForFeatureExtraction \n)\n",
)
FILES: dict[str, Any] = {
    "trainer_state.json": {
        "global_step": 63, "best_metric": 0.7, "log_history": [
            {"step": 10, "epoch": 0.16, "loss": 2.1, "learning_rate": 1e-05},
            {"step": 20, "epoch": 0.32, "eval_loss": 1.2, "eval_dev_cosine_ndcg@10": 0.61, "eval_runtime": 1.0},
        ],
    },
    "adapter_config.json": {
        "peft_type": "LORA", "base_model_name_or_path": "acme/base", "r": 8, "lora_alpha": 16, "lora_dropout": 0.1,
        "target_modules": ["query", "value"], "use_dora": False, "revision": None,
    },
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}],
    "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False},
    "config_sentence_transformers.json": {
        "__version__": {"sentence_transformers": "3.3.1"}, "prompts": {"query": "q: "}, "similarity_fn_name": "cosine",
    },
    "config.json": {"_name_or_path": "acme/base", "hidden_size": 64},
    "1_Pooling/config.json": {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True},
}  # fmt: skip
ODD: list[Any] = [
    None, True, -1, 0, 2.5, 1e-320, 1e308, -1e999, float("nan"), 10**30, "", "x", "\ud800", "\x85\u202e\x1b[m", "1e1",
    "no", "a.b", [], [1.5], ["x"], {}, {"x": {}}, [[]], "9" * 5000,
]  # fmt: skip
"""Values in a JSON file that belong nowhere."""
WORDS = [
    "1e999", "-1e999", "1e-320", "nan", "inf", "-inf", "auto", "None", "True", "[]", "[1, 'a']", "{}", "{'a': inf}",
    "0", "-1", "1e1", "9" * 5000, "0x" + "f" * 5000, "\x85", "\u202e\u2066", "²", "\ufeff", "!!int ''", "!!float x",
    "- x", "!!timestamp x", "!!python/name:os.system", "&a [*a]", "*a", '"\\ud800"', "'\\ud800'", "a: b", "|", "<code>",
    "<lambda>", "../../x", "cosine_accuracy@x", "1,0,0", "1e15", "0.00001", "99999999999999999", "(1, 1)", "'", "\\",
]  # fmt: skip
SETTINGS = [
    "learning_rate", "scale", "training.seed", "data.more.0.name", "data.more.0", "base.prompts.query", "loss.inner",
    "loss.parameters.x", "lora.r", "training.prompts.anchor", "evaluation.name", "data.split.train", "base.model", "²",
    "lr_scheduler_kwargs.a", "eval_strategy", "columns", "data.columns", "report_to", "data.more.²", "name",
]  # fmt: skip
SOURCES = [HEAD + made + rest for made in MODULES for rest in (TRAINED, TRAINED, BY_FIT, BY_SETFIT)]
ROUNDS = 1_000  # cards of one seed


def other_words(draw: random.Random, text: str) -> str:
    """`text` with some numbers, words or lines replaced by what they must not be."""
    for _ in range(draw.randint(1, 5)):
        pattern = draw.choice([r"-?\d[\d.,e-]*", r"(?<=: ).+", r"[\w@/.-]+", r"(?<=\| )[^|\n]+", r"\n.*"])
        places = list(re.finditer(pattern, text))
        if places:
            found = draw.choice(places)
            word = draw.choice(["", "\n", found[0] * 2, *WORDS])
            text = text[: found.start()] + word + text[found.end() :]
    return text


def other_values(draw: random.Random, content: Any) -> bytes:
    """A JSON file with some values of another kind, or damaged."""
    content = json.loads(json.dumps(content))
    for _ in range(draw.randint(0, 3)):
        place: Any = {"": content}
        key: Any = ""
        while isinstance(place[key], dict | list) and place[key] and draw.random() < 0.8:
            place = place[key]
            key = draw.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
        place[key] = copy.deepcopy(draw.choice(ODD))
        content = place[key] if key == "" else content
    text = json.dumps(content).replace(f'"{"9" * 5000}"', "9" * 5000)
    return text.encode() if draw.random() < 0.9 else draw.choice(
        [b"", b"version https://git-lfs.github.com/spec/v1\noid x\n", b"\xff", b"[" * 9_000, text.encode()[:-3]]
    )  # fmt: skip


def go_through(draw: random.Random, folder: Path) -> None:
    """Read, audit and translate one card; write the recipe and read it back."""
    text = draw.choice(SHIPPED).read_text(encoding="utf-8") if draw.random() < 0.02 else draw.choice(SOURCES)
    parts = [part for part in re.split(r"\n(?=##+ )", text) if draw.random() < 0.7]
    data = other_words(draw, "\n".join(parts)).encode("utf-8", "surrogatepass")
    names = draw.sample([*FILES], draw.choice([0, 0, 1, 2, 7]))
    beside = {name: other_values(draw, FILES[name]) for name in names}
    if draw.random() < 0.1:
        beside["eval/dev_results.csv"] = other_words(draw, "epoch,steps,ndcg\n1,10,0.5\n").encode("utf-8", "replace")
    card = parse_card(data, name=draw.choice(["x", "\udcff", "../x"]), beside=beside)
    shown = json.dumps(card_to_dict(card), allow_nan=False, ensure_ascii=False)
    assert card_from_dict(json.loads(shown.encode().decode())) == card
    found = audit(card)
    json.dumps(found.to_dict(), allow_nan=False, ensure_ascii=False).encode()
    (repr(card) + repr(found) + card._repr_html_() + found._repr_html_()).encode()
    made = recipe(card, corrected=draw.random() < 0.5)
    if draw.random() < 0.3:
        key, value = parse_setting(f"{draw.choice(SETTINGS)}={draw.choice(WORDS)}")
        with contextlib.suppress(RecipeError):
            made = with_overrides(made, {key: value})
    json.dumps(made.model_dump(mode="json"), allow_nan=False, ensure_ascii=False).encode()
    if draw.random() < 0.02:
        save_recipe(made, folder / "recipe.yaml")
        assert load_recipe(folder / "recipe.yaml") == made
        written = (folder / "recipe.yaml").read_text(encoding="utf-8")[:1_500]  # without most origins
        (folder / "other.yaml").write_bytes(other_words(draw, written).encode("utf-8", "surrogatepass"))
        load_recipe(folder / "other.yaml")


def cards_go_through(seed: int, count: int, folder: Path) -> None:
    for number in range(count):
        name, message = f"card {seed}-{number}", ""
        with Usage() as usage:
            try:
                go_through(random.Random(name), folder)
            except WorkbenchError as error:
                message = str(error)
            except Exception as error:
                error.add_note(name)
                raise
        assert "\n" not in message, name
        assert len(message) < 1_500, name
        assert not usage.too_much, name


def test_cards_with_wrong_values(tmp_path: Path) -> None:
    cards_go_through(0, 100, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 101))
def test_a_hundred_thousand_cards_with_wrong_values(seed: int, tmp_path: Path) -> None:
    cards_go_through(seed, ROUNDS, tmp_path)
