"""The audit on real cards, its arithmetic against independent computation, and its surface."""

from __future__ import annotations

import json
import math
import random
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from healthy_card import evaluation, healthy, with_args, with_rows

from workbench.audit import rules_model
from workbench.audit.finding import SEVERITIES
from workbench.audit.rules import RULES, Audit, audit, findings_page
from workbench.cards import loss_bounds, metric_arithmetic, steps_per_epoch
from workbench.cards.card import Card, ColumnStatistics
from workbench.cards.read import read_card
from workbench.recipe.from_card import recipe

VISIBLE = {
    "hotpotqa-distilbert-energy": {
        "world-size", "warmup-units", "loss-out-of-band", "summed-loss", "loss-spikes", "evaluation-unused",
        "similarity-not-portable", "dataset-unnamed", "duplicate-anchors",
    },
    "gooaq-static-matryoshka": {
        "flat-run", "stopped-early", "untrained-dimension", "fit-defaults", "learning-rate", "hidden-inner-loss",
        "dataset-unnamed",
    },
    "korean-law-lora": {
        "scale-as-temperature", "fit-defaults", "truncated-texts", "prompts-in-texts", "batch-too-small",
        "not-evaluated", "dataset-unnamed", "warmup-units",
    },
    "porsche-mxbai": {
        "size-before-split", "metric-identities", "same-name-evaluations", "evaluation-unmatched", "best-not-kept",
        "truncated-dimension", "sampler-seed", "dataset-unnamed", "batch-too-small",
    },
    "sinhala-xlmr-cosine": {
        "nothing-logged", "not-evaluated", "fit-defaults", "tiny-data", "dataset-unnamed", "warmup-units",
    },
}  # fmt: skip
"""Card -> exactly the codes that can be proven from the card alone."""

BESIDE = {"korean-law-lora": set(), "porsche-mxbai": {"hidden-adapter", "hidden-prompts"}}
"""Codes that files beside the clean cards add."""

HIDDEN = {
    "hotpotqa-distilbert-energy": ("85,000", "170,000", "L40", "820", "un-normalised"),
    "gooaq-static-matryoshka": ("warmup_steps 1,", "script passed lr"),
    "korean-law-lora": ("385", "386", "warmupcosine", "9,162", "2,158", "hard negatives unused"),
    "porsche-mxbai": ("8-bit", "LoRA+", "ratio of 16", "1,437", "126", "saw 1,024"),
    "sinhala-xlmr-cosine": ("50 of the 65", "254", "144", "174", "paraphrases"),
}
"""What nobody can know from the card."""


@pytest.fixture(scope="module")
def seeds(shared: Path) -> dict[str, tuple[Card, Card]]:
    """name -> (the damaged card, the clean one with its files beside it)."""
    folder = shared / "cards"
    return {
        name: (read_card(folder / "seeds" / f"{name}.md"), read_card(folder / "seeds-clean" / f"{name}.md"))
        for name in VISIBLE
    }


@pytest.fixture(scope="module")
def real(shared: Path) -> list[Card]:
    files = sorted((shared / "cards" / "real").rglob("README.md"))
    return [read_card(file.parent) for file in files]


def codes(found: Audit) -> set[str]:
    return {finding.code for finding in found}


# ---------------------------------------------------------------------------------------------------- the five cards


@pytest.mark.parametrize("name", VISIBLE)
def test_everything_visible_is_found_and_nothing_else(name: str, seeds: dict[str, tuple[Card, Card]]) -> None:
    damaged, clean = seeds[name]
    shapeless = {"adapter-unspecified"} if name == "korean-law-lora" else set()
    assert codes(audit(damaged)) == VISIBLE[name] | {"text-damaged"} | shapeless
    assert codes(audit(clean)) == VISIBLE[name] | BESIDE.get(name, set())


@pytest.mark.parametrize("name", VISIBLE)
def test_nothing_hidden_is_claimed(name: str, seeds: dict[str, tuple[Card, Card]]) -> None:
    found = audit(seeds[name][0])
    said = " ".join([*(one.message for one in found), *(one.fix.sentence for one in found if one.fix)])
    assert [word for word in HIDDEN[name] if re.search(rf"(?<![\d.,]){re.escape(word)}(?![\d,])", said)] == []


def test_numbers_of_the_five(seeds: dict[str, tuple[Card, Card]]) -> None:
    """The figures that a careful reader works out by hand."""
    hotpot, gooaq, korean, porsche, sinhala = (audit(seeds[name][0]) for name in VISIBLE)

    assert hotpot["world-size"].evidence["processes"] == 2
    assert hotpot["world-size"].evidence["steps_per_epoch"] == 1195
    assert hotpot["warmup-units"].evidence["epochs_of_warmup"] == 0.8
    assert hotpot["warmup-units"].evidence["share_of_batches"] == 0.1
    assert hotpot["loss-spikes"].evidence["steps"] == [875, 1275, 2400, 3500, 3900]
    assert hotpot["loss-out-of-band"].evidence["chance"] == pytest.approx(2.77, abs=0.005)
    assert "7,287" in hotpot["loss-out-of-band"].message
    assert "17,000" in hotpot["evaluation-unused"].message
    assert hotpot["duplicate-anchors"].evidence["comparing"] == 3

    assert gooaq["stopped-early"].evidence["last_step"] == 35_304
    assert gooaq["stopped-early"].evidence["declared_epochs"] == 15
    assert gooaq["untrained-dimension"].evidence == {"trained": [512, 256], "output": 1024}
    assert gooaq["flat-run"].evidence["largest_move"] < 0.002

    scale = korean["scale-as-temperature"].evidence
    assert [scale[key] for key in ("low", "chance", "high")] == [1.3122, 1.3863, 1.4622]
    assert [round(scale[key], 2) for key in ("first_gap", "last_gap")] == [0.14, 0.49]
    assert korean["truncated-texts"].evidence["limit"] == 128

    assert porsche["size-before-split"].evidence["rows_at_most"] == 1440
    assert porsche["size-before-split"].evidence["share"] == 0.8
    assert porsche["metric-identities"].evidence == {"queries": 180, "hits": 161}
    assert porsche["best-not-kept"].evidence["best"] == 0.7242
    assert porsche["best-not-kept"].evidence["best_step"] == 360
    assert porsche["evaluation-unmatched"].evidence["value"] == 0.7357
    assert porsche["same-name-evaluations"].evidence["values"] == [0.7357, 0.7172]

    assert sinhala["nothing-logged"].evidence == {"planned_steps": 65, "logging_steps": 500}
    assert "278 million" in sinhala["tiny-data"].message


def test_fixes_of_the_five(seeds: dict[str, tuple[Card, Card]]) -> None:
    changes: dict[str, dict[str, Any]] = {}
    for name, (card, _) in seeds.items():
        changes[name] = {k: v for finding in audit(card) if finding.fix for k, v in finding.fix.changes.items()}
    hotpot = changes["hotpotqa-distilbert-energy"]
    assert (hotpot["training.warmup_ratio"], hotpot["training.warmup_steps"]) == (0.01, 0)  # 120 of 11,950 steps
    assert hotpot["training.eval_strategy"] == "epoch"
    assert hotpot["training.batch_sampler"] == "no_duplicates"
    gooaq = changes["gooaq-static-matryoshka"]
    assert gooaq["training.learning_rate"] == 0.2
    assert gooaq["training.warmup_ratio"] == 0.1
    assert gooaq["training.bf16"] is True
    assert gooaq["loss.parameters.matryoshka_dims"] == [1024, 512, 256]
    assert changes["korean-law-lora"]["loss.parameters.scale"] == 20.0
    korean = changes["korean-law-lora"]
    assert set(korean["base.prompts"]) == {"query", "document"}
    assert set(korean["training.prompts"]) == {"sentence_0", "sentence_1"}
    assert (korean["training.warmup_ratio"], korean["training.warmup_steps"]) == (0.1, 0)
    assert changes["porsche-mxbai"]["training.load_best_model_at_end"] is True
    assert changes["porsche-mxbai"]["training.metric_for_best_model"] == "cosine_ndcg@10"
    sinhala = changes["sinhala-xlmr-cosine"]
    assert (sinhala["training.logging_steps"], sinhala["training.warmup_ratio"]) == (3, 0.1)
    assert sinhala["training.eval_strategy"] == "epoch"


def test_the_adapter_beside_the_card(seeds: dict[str, tuple[Card, Card]]) -> None:
    hidden = audit(seeds["porsche-mxbai"][1])["hidden-adapter"]
    assert hidden.fix is not None
    assert hidden.fix.changes["base.lora"] == {
        "r": 8, "alpha": 32, "dropout": 0.1, "use_dora": True, "target_modules": ["dense", "key", "query", "value"],
    }  # fmt: skip
    facts = {fact.name: fact for fact in audit(seeds["korean-law-lora"][1]).reproducibility.facts}
    assert facts["adapter shape"].status == "beside the card"
    assert facts["adapter shape"].value["r"] == 8


# ---------------------------------------------------------------------------------------------------- real cards

BY_HAND = {
    # worked out by hand from the card's own lines
    "kaiizzz__COMP90042_2025__climate-cachedmnrl": {"loss-at-chance", "label-ignored", "learning-rate"},
    "kaiizzz__COMP90042_2025__climate-mnrl": {"label-ignored"},
    "everydaylucky__si650__cite-scibert": {"label-ignored", "fit-defaults", "stopped-early"},
    "Fervidstar__intelligent-investment-advisor__bge-zh-stock": {"identical-columns", "fit-defaults"},
    "IVproger__PMDL-DisasterTweets__batchall-clean": {"margin-unreachable", "not-evaluated"},
    "Jerusalem12__AI-in-Cybersecurity-Auditing-and-Compliance-Monitoring__bi1160": {"similarity-mismatch"},
    "NageshMuralidhar__AIE5__podcast-matryoshka": {"joined-logs", "flat-run", "duplicate-anchors"},
    "thinhcopypaste__chatbot_uit__softmax-triplet": {"world-size", "same-name-evaluations", "overfit"},
    "Poyen-Chen__TW-Porsche__nomic-triplets": {"size-before-split", "evaluation-saturated", "sampler-seed"},
    "micchyboy237__jet_python_modules__static-retrieval-mrl-en": {"best-not-kept", "sampler-seed"},
    "anass-elmansouriDS__NLP-Projects__cosent-ese": {"joined-logs", "same-name-evaluations"},
}

GOOD = {
    # healthy as far as the card tells
    "alex2awesome__schema-generation__editorial23k",
    "mazenbs__arabic_emdd__untrained-albert-ar",
    "lightonai__pylate-rs__untrained-colbert",
}


def test_findings_on_real_cards_that_were_worked_out_by_hand(real: list[Card]) -> None:
    found = {card.name: codes(audit(card)) for card in real}
    assert {name: expected - found[name] for name, expected in BY_HAND.items()} == {name: set() for name in BY_HAND}


def test_good_real_cards_get_no_error_and_no_warning(real: list[Card]) -> None:
    loud = {card.name: [f.message for f in audit(card) if f.severity != "note"] for card in real if card.name in GOOD}
    assert loud == {name: [] for name in GOOD}


def test_every_finding_on_every_card_is_well_formed(real: list[Card], seeds: dict[str, tuple[Card, Card]]) -> None:
    known = {rule.code for rule in RULES}
    for card in [*real, *(card for pair in seeds.values() for card in pair)]:
        done = audit(card)
        json.dumps(done.to_dict(), allow_nan=False)
        assert [finding.order() for finding in done] == sorted(finding.order() for finding in done)
        for finding in done:
            assert finding.code in known
            assert finding.severity in SEVERITIES
            assert finding.message.endswith(".")
            assert len(finding.message) < 700
            assert "None" not in finding.message
            assert all(1 <= line <= len(card.lines) for line in finding.lines), finding


@pytest.mark.slow
def test_no_mutation_of_a_real_card_stops_the_audit(real: list[Card]) -> None:
    """Facts torn out or spliced in from other cards, as damaged cards have them."""
    dice = random.Random(7)
    fields = [name for name in Card.__dataclass_fields__ if name not in ("name", "sha256", "lines")]
    for _ in range(400):
        card, other = dice.choice(real), dice.choice(real)
        swapped = {name: getattr(other, name) for name in dice.sample(fields, dice.randint(1, 6))}
        log = list(card.training_log)
        dice.shuffle(log)
        mixed = replace(card, **{"training_log": tuple(log[: dice.randint(0, 30)]), **swapped})
        assert isinstance(audit(mixed), Audit)


def test_an_audit_of_a_long_log_takes_less_than_20_ms(seeds: dict[str, tuple[Card, Card]]) -> None:
    card = seeds["hotpotqa-distilbert-energy"][0]  # 45 KB, 478 log rows
    best = math.inf
    for _ in range(30):
        fresh = replace(card)  # without what was inferred before
        start = time.perf_counter()
        audit(fresh)
        best = min(best, time.perf_counter() - start)
    assert best < 0.02


# ------------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(("candidates", "scale"), [(2, 20.0), (4, 0.05), (8, 1.0), (5, 3.0)])
def test_the_band_is_where_a_numeric_search_ends(candidates: int, scale: float) -> None:
    """The extremes of -log softmax over similarities in [-1, 1], found by scipy and not by the formula."""
    import numpy as np
    from scipy.optimize import minimize

    def loss(similarities: Any) -> float:
        scores = scale * np.asarray(similarities)
        return float(np.logaddexp.reduce(scores) - scores[0])

    generator = np.random.default_rng(3)
    bounds = [(-1.0, 1.0)] * candidates
    starts = [generator.uniform(-1, 1, candidates) for _ in range(5)]
    low = min(minimize(loss, start, bounds=bounds, method="L-BFGS-B").fun for start in starts)
    high = -min(minimize(lambda x: -loss(x), start, bounds=bounds, method="L-BFGS-B").fun for start in starts)
    band = loss_bounds.softmax_band(candidates, scale)
    assert band.low == pytest.approx(low, abs=1e-6)
    assert band.high == pytest.approx(high, abs=1e-5)
    assert band.chance == pytest.approx(loss(np.zeros(candidates)), abs=1e-12)
    assert all(band.low - 1e-12 <= loss(generator.uniform(-1, 1, candidates)) <= band.high + 1e-12 for _ in range(200))


def test_the_library_s_losses_stay_in_the_band() -> None:
    """MultipleNegativesRankingLoss itself, on the best and the worst embeddings there are, and on equal ones."""
    torch = pytest.importorskip("torch")
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    batch, scale = 4, 20.0
    loss = MultipleNegativesRankingLoss(model=torch.nn.Identity(), scale=scale)
    anchors = torch.eye(batch)
    band = loss_bounds.softmax_band(batch, scale)
    for positives, expected in ((torch.ones(batch, batch), band.chance), (anchors, None), (-anchors, None)):
        value = float(loss.compute_loss_from_embeddings([anchors, positives], None))
        assert band.holds(value)
        if expected is not None:
            assert value == pytest.approx(expected, abs=1e-5)


def test_the_gap_is_the_inverse_of_the_loss() -> None:
    for gap in (-1.5, -0.1, 0.0, 0.3, 1.9):
        loss = math.log(1 + 7 * math.exp(-3.0 * gap))
        assert loss_bounds.implied_gap(loss, 8, 3.0) == pytest.approx(gap, abs=1e-9)


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize(("rows", "batch"), [(153_000, 16), (20_111, 8), (3_007, 4)])
def test_processes_are_read_back_from_a_simulated_log(
    rows: int, batch: int, drop_last: bool, accumulation: int, processes: int
) -> None:
    """A log written as the trainer writes it: batches shared out, epoch = done / batches, four places."""
    whole = rows // batch if drop_last else -(-rows // batch)
    batches = whole // processes if drop_last else -(-whole // processes)
    log, step = [], 0
    for epoch in range(3):
        for done in range(1, batches + 1):
            if done % accumulation == 0 or done == batches:
                step += 1
                if step % 25 == 0:
                    log.append((round(epoch + done / batches, 4), step))
    found = steps_per_epoch.epoch_of(tuple(log), accumulation)
    assert found is not None
    assert batches in found.batches
    explanations = steps_per_epoch.readings(found, [rows], batch, drop_last=drop_last, round_robin=False)
    assert any(reading.processes == processes and reading.share == 1 for reading in explanations)
    if processes == 1:
        assert len(explanations) == 1


def test_identities_hold_for_simulated_rankings() -> None:
    """Metrics computed from random rankings never violate an identity, and give away their number of queries."""
    dice = random.Random(1)
    for queries in (7, 24, 50, 180):
        ranked = [[dice.random() < 0.15 for _ in range(20)] for _ in range(queries)]
        golds = [max(sum(hits), 1) + dice.randint(0, 2) for hits in ranked]
        values: dict[str, float] = {}
        for k in (1, 3, 5, 10):
            found = [sum(hits[:k]) for hits in ranked]
            values[f"cosine_accuracy@{k}"] = sum(count > 0 for count in found) / queries
            values[f"cosine_precision@{k}"] = sum(count / k for count in found) / queries
            values[f"cosine_recall@{k}"] = sum(c / gold for c, gold in zip(found, golds, strict=True)) / queries
        first = [next((1 / (at + 1) for at, hit in enumerate(hits[:10]) if hit), 0.0) for hits in ranked]
        values["cosine_mrr@10"] = sum(first) / queries
        gains = [1 / math.log2(at + 2) for at in range(10)]
        ideal = [sum(gains[:gold]) for gold in golds]
        values["cosine_ndcg@10"] = (
            sum(
                sum(gain for gain, hit in zip(gains, hits, strict=False) if hit) / best
                for hits, best in zip(ranked, ideal, strict=True)
            )
            / queries
        )
        rounded = {name: round(value, 4) for name, value in values.items()}
        assert metric_arithmetic.broken_identities(rounded) == []
        exact = metric_arithmetic.queries_of(values, exact=True)
        assert exact is not None
        assert queries % exact == 0


def test_removed_arguments_are_those_of_the_installed_library() -> None:
    import dataclasses

    transformers = pytest.importorskip("transformers")
    taken = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    assert set(rules_model.REMOVED) & taken == set()


# ---------------------------------------------------------------------------------------------------------- surface


def test_the_page_lists_every_code_with_reasoning_and_example(root: Path) -> None:
    page = (root / "workbench" / "audit" / "findings.md").read_text(encoding="utf-8")
    assert page == findings_page(), "write it anew: see workbench.audit.findings_page"
    for rule in RULES:
        assert f"## {rule.code}\n" in page
        assert all(rule.documentation()[:3]), rule.code


def test_an_audit_is_a_sequence_that_shows_itself() -> None:
    found = audit(with_args(healthy(), learning_rate=0.02, warmup_steps=9_999))
    assert len(found) == 2
    assert [finding.severity for finding in found] == ["error", "warning"]
    assert found[0] is found["warmup-units"]
    assert repr(found).startswith("Audit of healthy: 1 error, 1 warning\n  error    warmup-units")
    assert found.counts() == {"error": 1, "warning": 1, "note": 0}
    with pytest.raises(KeyError, match="no finding 'flat-run' on 'healthy'; there are: warmup-units and learning-rate"):
        found["flat-run"]


def test_the_dictionary_has_the_documented_keys() -> None:
    given = audit(with_args(healthy(), warmup_steps=9_999)).to_dict()
    assert set(given) == {"findings", "reproducibility", "resolutions"}
    assert set(given["findings"][0]) == {"code", "severity", "message", "evidence", "lines", "fix"}
    assert given["findings"][0]["fix"] == {
        "changes": {"training.warmup_ratio": 0.1, "training.warmup_steps": 0},
        "sentence": "Warm up for 10% of the steps.",
    }
    assert set(given["reproducibility"]) == {"verdict", "facts"}
    assert set(given["reproducibility"]["facts"][0]) == {"name", "status", "value", "lines", "note"}


def test_hostile_text_is_escaped_in_a_notebook() -> None:
    evil = "<script>alert(1)</script>"
    label = ColumnStatistics("label", "int", {"0": 0.5, "1": 0.5})
    card = replace(with_rows(healthy(), columns=("anchor", "positive", "label"), statistics=(label,)), name=evil)
    card = replace(card, evaluations=(evaluation(0.1, name=evil), evaluation(0.2, name=evil)))
    shown = audit(card)._repr_html_()
    assert evil not in shown
    assert "&lt;script&gt;" in shown


def test_reproducibility_of_a_card_that_tells_all_but_the_split() -> None:
    summary = audit(healthy()).reproducibility
    assert summary.verdict == "It can be run again but not exactly: 24 of 25 facts are known; missing: split."
    assert [fact.name for fact in summary.facts if fact.status == "missing"] == ["split"]
    processes = next(fact for fact in summary.facts if fact.name == "processes")
    assert (processes.status, processes.value) == ("inferred", 1)


def test_reproducibility_of_the_five(seeds: dict[str, tuple[Card, Card]]) -> None:
    facts = {name: {f.name: f for f in audit(pair[0]).reproducibility.facts} for name, pair in seeds.items()}
    assert facts["hotpotqa-distilbert-energy"]["processes"].value == 2
    assert facts["hotpotqa-distilbert-energy"]["loss parameters"].status == "missing"
    assert facts["porsche-mxbai"]["split"].value == 0.8
    for name in ("gooaq-static-matryoshka", "korean-law-lora", "sinhala-xlmr-cosine"):
        assert facts[name]["learning rate"].status == "missing"
    assert facts["korean-law-lora"]["adapter shape"].status == "missing"
    assert all(found["training data"].status == "missing" for found in facts.values())
    assert facts["gooaq-static-matryoshka"]["evaluation set"].status == "on the card"


def test_a_name_or_a_path_is_read(root: Path) -> None:
    card = read_card("porsche-mxbai")
    assert audit("porsche-mxbai").to_dict() == audit(card).to_dict()
    assert audit(root / "data" / "cards" / "porsche-mxbai" / "README.md").to_dict() == audit(card).to_dict()
    assert recipe("porsche-mxbai") == recipe(card)
