"""The library writes cards of tiny models trained for a few steps; reading them gives back every value that went in.

What went in is taken from the library's own record (`model.model_card_data`), so these tests hold for whatever version
of sentence-transformers is installed.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.cards.card import Card, Loss
from workbench.cards.literals import plain
from workbench.cards.read import card_from_dict, card_to_dict, read_card

st = pytest.importorskip("sentence_transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the library's own warnings are not what is tested here
]

WORDS = [f"w{number}" for number in range(60)]
TOKENS = 32


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Folder of a random two-layer BERT with the head that a kind of model needs."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
    from transformers import PreTrainedTokenizerFast as Fast

    heads = {"plain": BertModel, "masked": BertForMaskedLM, "pairs": BertForSequenceClassification}
    root = tmp_path_factory.mktemp("bases")

    def make(head: str) -> str:
        folder = root / head
        if not folder.exists():
            vocabulary = {token: at for at, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
            tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
            tokens.pre_tokenizer = pre_tokenizers.Whitespace()
            tokens.post_processor = processors.TemplateProcessing(
                single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
            )
            fast = Fast(
                tokenizer_object=tokens, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
                mask_token="[MASK]", model_max_length=TOKENS,
            )  # fmt: skip
            sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
            labels = {"num_labels": 1} if head == "pairs" else {}
            config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=40, **sizes, **labels)
            heads[head](config).save_pretrained(folder)
            fast.save_pretrained(folder)
        return str(folder)

    return make


def text(source: random.Random) -> str:
    return " ".join(source.choices(WORDS, k=source.randint(2, 8)))


def rows(count: int, *columns: str, seed: int = 0, **labels: Callable[[int], Any]) -> Any:
    from datasets import Dataset

    source = random.Random(seed)
    data: dict[str, list[Any]] = {column: [text(source) for _ in range(count)] for column in columns}
    data |= {name: [make(at) for at in range(count)] for name, make in labels.items()}
    return Dataset.from_dict(data)


def train(family: str, model: Any, folder: Path, data: Any, loss: Any, **options: Any) -> Card:
    """Train a few steps, write the card, read it."""
    names = {
        "": "SentenceTransformer",
        "cross": "CrossEncoder",
        "sparse": "SparseEncoder",
        "multi": "MultiVectorEncoder",
    }
    trainer_class = getattr(st, names[family] + "Trainer")
    arguments_class = getattr(st, names[family] + "TrainingArguments")
    evaluator = options.pop("evaluator", None)
    held_out = options.pop("held_out", None)
    settings = {"max_steps": 4, "logging_steps": 2, "per_device_train_batch_size": 8, "save_strategy": "no"} | options
    arguments = arguments_class(
        output_dir=str(folder / "out"), report_to=[], use_cpu=True, disable_tqdm=True, **settings
    )
    trainer = trainer_class(
        model=model, args=arguments, train_dataset=data, eval_dataset=held_out, loss=loss, evaluator=evaluator
    )
    trainer.train()
    if evaluator is not None:
        for one in evaluator if isinstance(evaluator, list) else [evaluator]:
            one(model)
    model.save_pretrained(str(folder / "model"))
    return read_card(folder / "model" / "README.md")


# -- what went in is what comes out ----------------------------------------------------------------------------------


def check(card: Card, model: Any) -> None:
    record = model.model_card_data
    assert [part for part in card.unread if part.section != "header"] == []
    assert card_from_dict(json.loads(json.dumps(card_to_dict(card), allow_nan=False))) == card
    check_arguments(card, record)
    check_datasets(card, record)
    check_log(card, record)
    check_evaluations(card, record)
    assert card.library_version == st.__version__
    assert len(card.versions) == len(record.version)
    assert card.tags == tuple(record.tags)
    assert [name for names in record.citations for name in re.split(", | and ", names)] == list(card.citations)
    assert {key: stated.value for key, stated in card.training_time.items()}["Training"]


def shown(item: Any) -> Any:
    """A training argument as the card can show it: plain data, or its text."""
    if isinstance(item, dict | list | tuple):
        return plain(item)
    return item if item is None or type(item) in (bool, int, float) else str(item)


def check_arguments(card: Card, record: Any) -> None:
    for mine, theirs in (
        (card.hyperparameters, record.all_hyperparameters),
        (card.non_default, record.non_default_hyperparameters),
    ):
        assert {key: stated.value for key, stated in mine.items()} == {key: shown(item) for key, item in theirs.items()}
        for key, stated in mine.items():
            assert stated.line is not None
            assert f"`{key}`" in card.lines[stated.line - 1]


def check_datasets(card: Card, record: Any) -> None:
    for mine, theirs in (
        (card.training_datasets(), record.train_datasets),
        (card.evaluation_datasets(), record.eval_datasets),
    ):
        assert len(mine) == len(theirs)
        for dataset, info in zip(mine, theirs, strict=True):
            assert dataset.name == (info.get("name") or None)
            assert dataset.size == info.get("size")
            assert list(dataset.columns) == [re.sub("</?code>", "", column) for column in info["columns"]]
            for part in dataset.statistics:
                stats = info["stats"][part.column]
                assert part.type == stats["dtype"]
                assert {str(key): number_of(item) for key, item in stats["data"].items()} == pytest.approx(part.details)
            assert {part.column for part in dataset.statistics} == set(info["stats"])
            for column, examples in info.get("examples", {}).items():
                if column not in dataset.columns:  # the trainer adds `dataset_name` after the card has its columns
                    continue
                assert [row[column] for row in dataset.samples] == examples
            assert dataset.loss is not None
            assert (
                dataset.loss.name == info["loss"]["fullname"].removeprefix("sentence_transformers.").rsplit(".", 1)[-1]
            )


def number_of(item: Any) -> float:
    found = re.match(r"~?([-\d.e]+)(%?)", str(item))
    assert found is not None
    return float(found.group(1)) / (100 if found.group(2) else 1)


def check_log(card: Card, record: Any) -> None:
    assert len(card.training_log) == len(record.training_logs)
    for mine, theirs in zip(card.training_log, record.training_logs, strict=True):
        known = {"Epoch": mine.epoch, "Step": mine.step, "Training Loss": mine.training_loss}
        if "Validation Loss" in theirs:
            known["Validation Loss"] = mine.validation_loss
        known |= {key: item for key, item in mine.metrics.items() if item is not None}
        known = {key: item for key, item in known.items() if item is not None}
        wanted = {key: float(str(item).split(" ")[0]) for key, item in theirs.items()}
        assert known == pytest.approx(wanted, abs=5.1e-5)
        assert mine.saved == (theirs["Step"] == record.best_model_step)


def flat(record: Any) -> Iterator[tuple[str, dict[str, float]]]:
    for evaluator, metrics in record.eval_results_dict.items():
        name = getattr(evaluator, "name", None) or ""
        prefix = f"{name}_"
        own = bool(name) and all(key.startswith(prefix) for key in metrics)
        yield name, {key.removeprefix(prefix) if own else key: item for key, item in metrics.items()}


def check_evaluations(card: Card, record: Any) -> None:
    theirs = sorted(flat(record), key=lambda pair: pair[0])
    mine = sorted(card.evaluations, key=lambda part: part.datasets)
    assert len(mine) == len(theirs)
    for part, (name, metrics) in zip(mine, theirs, strict=True):
        assert part.datasets == ((name,) if name else ())
        values = {key: float(str(item).split(" ")[0]) for key, item in metrics.items()}
        assert part.metrics == pytest.approx(values, abs=5.1e-5)
        unrounded = {result.metric: result.value for result in card.model_index if result.dataset == (name or None)}
        for key, item in values.items():
            assert unrounded[key] == pytest.approx(item, abs=5e-5 if isinstance(metrics[key], str) else 0)


def chain(loss: Loss | None) -> list[tuple[str, dict[str, Any]]]:
    assert loss is not None
    return [(node.name, dict(node.parameters)) for node in loss.chain()]


# -- the models ------------------------------------------------------------------------------------------------------


def test_nested_loss_prompts_and_the_kept_checkpoint(base: Callable[[str], str], tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer import evaluation, losses

    model = st.SentenceTransformer(base("plain"), similarity_fn_name="dot")
    evaluator = evaluation.InformationRetrievalEvaluator(
        {"q1": "w1 w2", "q2": "w3"}, {"d1": "w1 w5", "d2": "w3 w9", "d3": "w8"}, {"q1": {"d1"}, "q2": {"d2"}},
        name="dev|x", accuracy_at_k=[1, 3], precision_recall_at_k=[1], ndcg_at_k=[3], mrr_at_k=[3], map_at_k=[3],
        truncate_dim=8,
    )  # fmt: skip
    loss = losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [16, 8], [1, 0.25])
    card = train(
        "", model, tmp_path, rows(24, "anchor", "positive"), loss, held_out=rows(8, "anchor", "positive", seed=3),
        evaluator=evaluator, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True, learning_rate=1e-3, prompts={"anchor": "query: \n", "positive": "doc: "},
    )  # fmt: skip
    check(card, model)
    assert card.kind == "sentence-transformer"
    assert card.similarity is not None
    assert card.similarity.value == "Dot Product"
    assert card.max_seq_length is not None
    assert card.max_seq_length.value == TOKENS
    assert card.output_dimension is not None
    assert card.output_dimension.value == 16
    assert [module.type for module in card.modules] == ["Transformer", "Pooling"]
    assert card.modules[0].architecture == "BertModel"
    assert chain(card.datasets[0].loss) == [
        ("MatryoshkaLoss", {"matryoshka_dims": [16, 8], "matryoshka_weights": [1, 0.25], "n_dims_per_step": -1}),
        ("MultipleNegativesRankingLoss", {}),
    ]
    assert card.evaluations[0].evaluator == "InformationRetrievalEvaluator"
    assert card.evaluations[0].parameters == {"truncate_dim": 8}
    assert card.evaluations[0].main_metric == "dot_ndcg@3"
    assert sum(row.saved for row in card.training_log) == 1


def test_four_folded_datasets_with_a_loss_each(base: Callable[[str], str], tmp_path: Path) -> None:
    from datasets import DatasetDict
    from sentence_transformers.sentence_transformer import evaluation, losses

    model = st.SentenceTransformer(base("plain"))
    data = DatasetDict(
        {
            "nli set": rows(24, "premise", "hypothesis", label=lambda at: at % 3),
            "sts": rows(16, "a|b", "s2", score=lambda at: at / 16),
            "triplets": rows(16, "anchor", "positive", "negative"),
            "yes-no": rows(16, "x", "y", label=lambda at: at % 2),
        }
    )
    inner = {
        "nli set": losses.SoftmaxLoss(model, 16, 3),
        "sts": losses.CoSENTLoss(model),
        "triplets": losses.TripletLoss(model, triplet_margin=0.3),
        "yes-no": losses.ContrastiveLoss(model),
    }
    three = ["w1", "w2", "w3"]
    evaluator = st.base.evaluation.SequentialEvaluator(
        [
            evaluation.EmbeddingSimilarityEvaluator(three, ["w1 w5", "w2", "w9"], [1.0, 0.5, 0.1], name="sts-dev"),
            evaluation.TripletEvaluator(three, three, ["w4"] * 3, name="first"),
            evaluation.TripletEvaluator(["w4"] * 3, three, three, name="second"),
        ]
    )
    held_out = DatasetDict({name: part.select(range(8)) for name, part in data.items()})
    card = train(
        "", model, tmp_path, data, inner, held_out=held_out, evaluator=evaluator, eval_strategy="steps", eval_steps=2
    )
    check(card, model)
    assert [dataset.name for dataset in card.training_datasets()] == list(data)
    assert chain(card.datasets[2].loss) == [
        ("TripletLoss", {"distance_metric": "TripletDistanceMetric.EUCLIDEAN", "triplet_margin": 0.3})
    ]
    first, second = (part for part in card.evaluations if part.name == "Triplet")
    assert first.lines == second.lines
    assert set(card.training_log[-1].metrics) >= {"sts loss", "yes-no loss", "sts-dev_spearman_cosine"}


def test_adapter_and_guided_loss(base: Callable[[str], str], tmp_path: Path) -> None:
    from peft import LoraConfig, TaskType
    from sentence_transformers.sentence_transformer import losses

    model = st.SentenceTransformer(base("plain"))
    guide = st.SentenceTransformer(base("plain"))
    model.add_adapter(LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=2, lora_alpha=4, target_modules=["query"]))
    loss = losses.CachedGISTEmbedLoss(model, guide, temperature=0.05, mini_batch_size=4)
    card = train("", model, tmp_path, rows(16, "anchor", "positive", "negative"), loss)
    check(card, model)
    [(name, parameters)] = chain(card.datasets[0].loss)
    assert name == "CachedGISTEmbedLoss"
    assert parameters["temperature"] == 0.05
    assert parameters["mini_batch_size"] == 4
    assert parameters["guide"].startswith("SentenceTransformer(")


def test_static_embeddings_without_a_length(base: Callable[[str], str], tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer import losses, modules
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(Path(base("plain")) / "tokenizer.json"))
    model = st.SentenceTransformer(modules=[modules.StaticEmbedding(tokens, embedding_dim=24)])
    loss = losses.MultipleNegativesRankingLoss(model, scale=12.5)
    card = train("", model, tmp_path, rows(16, "sentence_0", "sentence_1"), loss)
    check(card, model)
    assert card.max_seq_length is not None
    assert card.max_seq_length.value == math.inf
    assert card_to_dict(card)["max_seq_length"] is None
    assert card.modules[0].type == "StaticEmbedding"
    [(_, parameters)] = chain(card.datasets[0].loss)
    assert parameters["scale"] == 12.5


def test_layers_and_dimensions_at_once(base: Callable[[str], str], tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer import losses

    model = st.SentenceTransformer(base("plain"))
    loss = losses.Matryoshka2dLoss(model, losses.CosineSimilarityLoss(model), [16, 4], n_layers_per_step=1)
    card = train("", model, tmp_path, rows(16, "a", "b", score=lambda at: at / 16), loss)
    check(card, model)
    assert [name for name, _ in chain(card.datasets[0].loss)] == ["Matryoshka2dLoss", "CosineSimilarityLoss"]
    assert chain(card.datasets[0].loss)[0][1]["matryoshka_dims"] == [16, 4]


def test_streamed_rows_have_no_size(base: Callable[[str], str], tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer import losses

    model = st.SentenceTransformer(base("plain"))
    stream = rows(40, "anchor", "positive").to_iterable_dataset()
    card = train("", model, tmp_path, stream, losses.MultipleNegativesRankingLoss(model))
    check(card, model)
    assert card.datasets[0].size is None
    assert card.datasets[0].columns == ("anchor", "positive")


def test_cross_encoder_with_gains_over_the_first_stage(base: Callable[[str], str], tmp_path: Path) -> None:
    import torch
    from sentence_transformers.cross_encoder import evaluation, losses

    model = st.CrossEncoder(base("pairs"), num_labels=1, max_length=TOKENS)
    samples = [
        {"query": "w1 w2", "positive": ["w1"], "documents": ["w3", "w1", "w5"]},
        {"query": "w7", "positive": ["w7 w8"], "documents": ["w7 w8", "w9"]},
    ]
    evaluator = evaluation.CrossEncoderRerankingEvaluator(samples, at_k=5, name="dev")
    card = train(
        "cross", model, tmp_path, rows(16, "query", "answer", label=lambda at: at % 2),
        losses.BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(3.0)), evaluator=evaluator,
        eval_strategy="steps", eval_steps=2,
    )  # fmt: skip
    check(card, model)
    assert card.kind == "cross-encoder"
    assert card.description["Number of Output Labels"].value == "1 label"
    assert chain(card.datasets[0].loss) == [
        (
            "BinaryCrossEntropyLoss",
            {"activation_fn": "torch.nn.modules.linear.Identity", "pos_weight": 3.0},
        )
    ]
    part = card.evaluations[0]
    assert part.parameters["at_k"] == 5
    assert set(part.gains) == set(part.metrics)
    printed = next(iter(model.model_card_data.eval_results_dict.values()))
    for name, gain in part.gains.items():
        assert f"({gain:+.4f})" in printed[f"dev_{name}"]


def test_cross_encoder_on_lists(base: Callable[[str], str], tmp_path: Path) -> None:
    from sentence_transformers.cross_encoder import losses

    model = st.CrossEncoder(base("pairs"), num_labels=1, max_length=TOKENS)
    data = rows(12, "query", docs=lambda at: [f"w{at}", "w1 w2", "w|3"], labels=lambda at: [1, 0, at % 2])
    card = train("cross", model, tmp_path, data, losses.LambdaLoss(model, k=2), per_device_train_batch_size=4)
    check(card, model)
    assert card.datasets[0].samples[1]["docs"] == ["w1", "w1 w2", "w|3"]
    assert card.datasets[0].statistics[2].details == {"size": 3}
    [(_, parameters)] = chain(card.datasets[0].loss)
    assert parameters["k"] == 2


def test_sparse_encoder_with_a_loss_inside_a_loss(base: Callable[[str], str], tmp_path: Path) -> None:
    from sentence_transformers.sparse_encoder import evaluation, losses

    model = st.SparseEncoder(base("masked"))
    inner = losses.SparseMultipleNegativesRankingLoss(model, scale=2.0)
    loss = losses.SpladeLoss(model, inner, document_regularizer_weight=3e-5, query_regularizer_weight=5e-5)
    evaluator = evaluation.SparseTripletEvaluator(["w1"] * 3, ["w1 w2"] * 3, ["w9"] * 3, name="dev")
    card = train("sparse", model, tmp_path, rows(16, "query", "answer"), loss, evaluator=evaluator)
    check(card, model)
    assert card.kind == "sparse-encoder"
    (outer, settings), (name, inside) = chain(card.datasets[0].loss)
    assert (outer, name) == ("SpladeLoss", "SparseMultipleNegativesRankingLoss")
    assert settings["document_regularizer_weight"] == 3e-5
    assert inside["scale"] == 2.0


def test_multi_vector_encoder(base: Callable[[str], str], tmp_path: Path) -> None:
    if not hasattr(st, "MultiVectorEncoder"):
        pytest.skip("this library has no multi-vector encoder")
    from sentence_transformers.multi_vector_encoder import losses

    model = st.MultiVectorEncoder(base("plain"))
    card = train(
        "multi", model, tmp_path, rows(16, "query", "answer"), losses.MultiVectorMultipleNegativesRankingLoss(model)
    )
    check(card, model)
    assert card.kind == "multi-vector"
    assert card.similarity is not None
    assert card.similarity.value == "MaxSim"


def test_router_of_two_static_models(base: Callable[[str], str], tmp_path: Path) -> None:
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer import losses, modules
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(Path(base("plain")) / "tokenizer.json"))
    routes = {name: [modules.StaticEmbedding(tokens, embedding_dim=8)] for name in ("query", "document")}
    model = st.SentenceTransformer(modules=[Router(routes, default_route="document")])
    card = train(
        "", model, tmp_path, rows(16, "question", "answer"), losses.MultipleNegativesRankingLoss(model),
        router_mapping={"question": "query", "answer": "document"}, learning_rate_mapping={r".*embedding.*": 0.05},
    )  # fmt: skip
    check(card, model)
    assert card.modules[0].type == "Router"
    assert card.modules[0].parameters["default_route"] == "document"
    assert {"sub_modules.query.0", "sub_modules.document.0"} <= set(card.modules[0].parameters)
    assert card.non_default["learning_rate_mapping"].value == {".*embedding.*": 0.05}
