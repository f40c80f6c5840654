"""Whatever is in a run folder, what reads runs works or raises an error of the workbench's own, never another."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pytest
from in_process import workbench
from synthetic_run import made_card, made_item_run, made_run

from workbench.data.collection import Collection
from workbench.errors import RunError, WorkbenchError
from workbench.evaluation.compare import compare, save_comparison
from workbench.evaluation.projection import load_vectors, project, save_vectors
from workbench.evaluation.retrieval import evaluate, save_evaluation
from workbench.evaluation.slices import at_dimensions, at_precisions, slice_queries
from workbench.evaluation.trec import FORMATS, export
from workbench.report.export import report_page
from workbench.report.markdown import markdown
from workbench.run import Run, list_runs
from workbench.training.background import has_finished
from workbench.training.given import Given
from workbench.views import failures, loss_curves, map_view, overview, queries
from workbench.views.log_tail import LogTail, checkpoint_steps, training_row_count
from workbench.views.loss_curves import Axis, curves
from workbench.views.summary import stored_comparison, summarize, summarize_several

COUNT = 24
NAME = "finetune"


def encode(noise: float) -> Any:
    """Texts of about one length have about one vector, more so with less `noise`."""

    def of(texts: list[str], kind: Literal["query", "document"]) -> np.ndarray[Any, Any]:
        own = np.array([np.random.default_rng(len(text)).normal(size=64) for text in texts])
        common = np.array([[np.sin(len(text) / 9 + at) for at in range(64)] for text in texts])
        return np.asarray(common + noise * own, dtype=np.float32)

    return of


def made_search_run(root: Path) -> Run:
    """A run with a card, a search before, while and after training, vectors, a map and a comparison."""
    run = made_run(root, queries=COUNT, steps=8, stand_in=False)
    shutil.rmtree(run.path / "evaluations")
    asked = {f"q{number}": "word " * (number % 4) + "?" * number for number in range(COUNT)}
    documents = {f"d{number}": "text " * number for number in range(COUNT)}
    relevant = {f"q{number}": {f"d{number}": 1.0, f"d{(7 * number + 1) % COUNT}": 1.0} for number in range(COUNT)}
    for stage, noise in (("before", 2.0), ("step-360", 1.0), ("after", 0.5)):
        found = evaluate(Collection(NAME, asked, documents, relevant), encode(noise))
        if stage != "step-360":
            save_vectors(run.path, NAME, stage, found)
        save_evaluation(run.path, NAME, stage, found)
    project(run, NAME, "pca")
    save_comparison(run, compare(run))
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run of a search and one of examples."""
    search, examples = (tmp_path_factory.mktemp(name) for name in ("search", "examples"))
    return {"search": made_search_run(search), "examples": made_item_run(examples, pairs=COUNT)}


# --- what reads runs -------------------------------------------------------------------------------------------------


def readers(run: Run, other: Run, out: Path) -> Iterator[Callable[[], Any]]:
    """Everything that reads a run: commands, report, figures, the pages of the dashboard."""
    yield lambda: (repr(run), run._repr_html_(), run.status)
    yield lambda: overview.status_reason(run.status, overview.run_row(run))
    yield lambda: list_runs(run.path.parent)
    yield lambda: (run.stand_ins, training_row_count(run), checkpoint_steps(run), has_finished(run))
    yield lambda: Given.of_record(run.record)
    yield lambda: repr(stored_comparison(run))
    yield lambda: LogTail(run.file("log")).columns()
    for axis in get_args(Axis):
        yield lambda axis=axis: curves(run, made_card(), axis=axis)
    yield lambda: loss_curves.loss_numbers(made_card(), run.log())
    yield lambda: [run.metrics(name, stage) for name, stages in run.evaluations().items() for stage in stages]
    for name in run.evaluations():
        yield lambda name=name: [queries.query_table(run, name, each) for each in queries.query_metrics(run, name)]
        yield lambda name=name: queries.open_queries(run, name, ["q0", "q1", "i00", "i01"])
        yield lambda name=name: queries.group_names(run, name)
        yield lambda name=name: queries.pair_queries(run, other, name)
        yield lambda name=name: failures.failure_causes(run, name)
        for by in ("query length", "relevant documents"):
            yield lambda name=name, by=by: slice_queries(run, name, by)
        yield lambda name=name: at_dimensions(run, name)
        yield lambda name=name: at_precisions(run, name)
        yield lambda name=name: map_view.map_view(run, name, "pca")
        yield lambda name=name: map_view.report_map(run, name)
        yield lambda name=name: map_view.neighbors(load_vectors(run, name, "after"), "query", ["q0"])
        for stage in ("before", "after"):
            for form in FORMATS:
                yield lambda name=name, stage=stage, form=form: export(run, name, stage, to=out, format=form)
            for form in queries.DOWNLOADS:
                yield lambda name=name, stage=stage, form=form: queries.download(run, name, stage, form)


def slow_readers(run: Run, other: Run) -> list[Callable[[], Any]]:
    """Those that take a second."""
    return [
        lambda: [repr(found := compare(run)), found._repr_html_()],
        lambda: compare(run, card=made_card()),
        lambda: compare(run, other),
        lambda: compare(other, run),
        lambda: report_page(run),
        lambda: markdown(summarize(run)),
        lambda: summarize_several([run, other]),
    ]


def faults(reads: Iterable[Callable[[], Any]]) -> list[str]:
    """What these raise that is not an error of the workbench's own, or that is not a sentence."""
    found = []
    for number, read in enumerate(reads):
        try:
            read()
        except WorkbenchError as error:
            if not 20 < len(str(error)) < 1500 or "\n" in str(error).strip():
                found.append(f"reader {number}: {error}")
        except Exception as error:  # noqa: BLE001  # what no reader may raise
            found.append(f"reader {number}: {type(error).__name__}: {error}"[:300])
    return found


# --- damages ---------------------------------------------------------------------------------------------------------


VALUES: list[Any] = [
    None, True, 7, -1, 0, 0.5, "x", "", [], {}, [1], ["x"], {"a": 1}, [{}], [[]], float("nan"), float("inf"), -1e300,
    10**400, 10**20, "\ud800", "a\nb", [None], {"a": None},
]  # fmt: skip


def places_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of each value below `value`."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places_of(value[key])


def damage_text(path: Path, chance: random.Random) -> str:
    data = path.read_bytes()
    kind = chance.choice(["empty", "cut", "zeros", "garbage", "other", "folder"])
    at = chance.randrange(len(data) or 1)
    if kind == "folder":
        path.unlink()
        path.mkdir()
        return kind
    new = {
        "empty": b"", "cut": data[:at], "zeros": data[:at] + bytes(64) + data[at + 64 :],
        "garbage": data[:at] + chance.randbytes(8) + data[at + 8 :],
        "other": chance.choice([b"[]", b"7", b"null", b'"x"', b"{}", b"[" * 100_000, b"1" * 5000, b"\xff\xfe{}"]),
    }  # fmt: skip
    path.write_bytes(new[kind])
    return f"{kind} at {at}"


def damage_json(path: Path, chance: random.Random) -> str:
    """One or two values removed or replaced."""
    lines = path.suffix == ".jsonl"
    whole = [json.loads(line) for line in path.read_text().splitlines()] if lines else json.loads(path.read_text())
    said = []
    for _ in range(chance.choice([1, 1, 2])):
        places = list(places_of(whole))
        shallow = [each for each in places if each[0] is whole]
        container, key = chance.choice(chance.choice([places, shallow]))
        if chance.random() < 0.3:
            said.append(f"without {key!r}")
            del container[key]
        else:
            container[key] = chance.choice(VALUES)
            said.append(f"{key!r}: {str(container[key])[:30]!r}")
    text = "\n".join(map(json.dumps, whole)) + "\n" if lines else json.dumps(whole)
    path.write_text(text)
    return ", ".join(said)


def damage_table(path: Path, chance: random.Random) -> str:
    """A column or rows changed."""
    table = pd.read_parquet(path)
    column = chance.choice(list(table.columns))
    kind = chance.choice(["drop", "words", "numbers", "null", "some null", "twice", "half", "none", "others", "shuffle",
                          "lists", "huge", "nan"])  # fmt: skip
    if kind == "drop":
        table = table.drop(columns=column)
    elif kind == "twice":
        table = pd.concat([table, table.head(3)])
    elif kind == "half":
        table = table.head(len(table) // 2)
    elif kind == "none":
        table = table.head(0)
    elif kind == "shuffle":
        table = table.sample(frac=1, random_state=chance.randrange(99))
    elif kind == "some null":
        table[column] = [None if number % 3 == 0 else value for number, value in enumerate(table[column])]
    else:
        new = {"words": "x", "numbers": 7, "null": None, "lists": [1.0, 2.0], "huge": 1e300, "nan": float("nan")}
        table[column] = [new.get(kind, f"z{number}") for number in range(len(table))]
    table.to_parquet(path)
    return f"{kind} {column!r}"


def damage_vectors(path: Path, chance: random.Random) -> str:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(path, framework="numpy") as file:
        metadata, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    name = chance.choice([*metadata, *tensors])
    kind = chance.choice(["drop", "value", "half", "nan"])
    if kind == "drop":
        metadata.pop(name, None), tensors.pop(name, None)
    elif name in metadata:
        metadata[name] = chance.choice(["", "7", "[]", "[1, 2]", "x", metadata[name][:-3], "{}", metadata["query_ids"]])
    elif kind == "nan":
        tensors[name] = tensors[name] * np.float32("nan")
    else:
        tensors[name] = chance.choice([tensors[name][:3], tensors[name][:, :5].copy(), tensors[name].ravel()])
    save_file(tensors, path, metadata=metadata)
    return f"{kind} {name!r}"


SHAPED = {".json": damage_json, ".jsonl": damage_json, ".parquet": damage_table, ".safetensors": damage_vectors}


def damage(path: Path, chance: random.Random) -> str:
    """Damage one file; says how."""
    if chance.random() < 0.08:
        path.unlink()
        return "removed"
    shaped = SHAPED.get(path.suffix)
    return damage_text(path, chance) if shaped is None or chance.random() < 0.25 else shaped(path, chance)


def tried(whole: dict[str, Run], seed: int, folder: Path) -> list[str]:
    """The faults of one damaged copy of a run."""
    chance = random.Random(seed)
    run = whole[chance.choice(["search", "search", "examples"])]
    files = sorted(path.relative_to(run.path) for path in run.path.rglob("*") if path.is_file())
    name = chance.choice(files)
    copy = Run(Path(shutil.copytree(run.path, folder / run.name)))
    how = damage(copy.path / name, chance)
    reads = [*readers(copy, run, folder / "out"), chance.choice(slow_readers(copy, run))]
    return [f"seed {seed}, {name}, {how}: {each}" for each in faults(reads)]


def test_a_whole_run_is_read(whole: dict[str, Run], tmp_path: Path) -> None:
    for run in whole.values():
        assert faults([*readers(run, run, tmp_path), *slow_readers(run, run)]) == []


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_run_is_read_or_refused(seed: int, whole: dict[str, Run], tmp_path: Path) -> None:
    assert tried(whole, seed, tmp_path) == []


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_damaged_runs_are_read_or_refused(whole: dict[str, Run], tmp_path: Path) -> None:
    found = []
    for seed in range(1000, 1600):
        found += tried(whole, seed, tmp_path / str(seed))
        shutil.rmtree(tmp_path / str(seed))
    assert found == []


# --- what is said of a half-written run ------------------------------------------------------------------------------


def cut_table(run: Run) -> None:
    table = run.file("values", NAME, "after")
    table.write_bytes(table.read_bytes()[:-9])


def write_garbage(run: Run) -> None:
    with run.file("log").open("ab") as log:
        log.write(b'\xff\x00 not json\n[1]\n\n{"step": 9}\n{"step": 1')  # the last line may be cut by a kill


HALF_WRITTEN: dict[str, tuple[Callable[[Run], None], str]] = {
    "no evaluation": (
        lambda run: shutil.rmtree(run.file("evaluations")),
        "It is finished and has no evaluation after training.",
    ),
    "cut table": (cut_table, f"Its evaluations cannot be read: '{NAME}/after.parquet' is cut off."),
    "garbage in the log": (write_garbage, "Its log has 2 lines that cannot be read."),
}


@pytest.mark.parametrize("kind", HALF_WRITTEN)
def test_a_half_written_run_is_flagged_wherever_runs_are_listed(
    kind: str, whole: dict[str, Run], tmp_path: Path
) -> None:
    damage_run, sentence = HALF_WRITTEN[kind]
    run = Run(shutil.copytree(whole["search"].path, tmp_path / "it"))
    assert run.damages() == ()
    damage_run(run)
    assert run.damages() == (sentence,)
    row = overview.run_row(run)
    assert [why for _, why in overview.attention([row])] == [sentence]
    done = workbench("runs", "--runs", tmp_path)
    assert (done.returncode, sentence in " ".join(done.stderr.split())) == (0, True)


def test_a_missing_or_malformed_file_is_named_without_its_parser_or_an_internal_path(
    whole: dict[str, Run], tmp_path: Path
) -> None:
    run = Run(shutil.copytree(whole["search"].path, tmp_path / "it"))
    run.file("comparison").write_text('{"verdict": ', encoding="utf-8")
    place = str(run.file("comparison"))
    said = f"expected JSON in {place!r}, found something else in line 1; `workbench compare it` makes it again."
    with pytest.raises(RunError, match=f"^{re.escape(said)}$"):
        stored_comparison(run)
    shutil.rmtree(run.file("evaluations"))
    said = (
        "expected the queries of 'finetune' in run 'it', found none; it has not come so far, or files of it are gone."
    )
    with pytest.raises(RunError, match=f"^{re.escape(said)}$"):
        run.per_query(NAME, "after")
