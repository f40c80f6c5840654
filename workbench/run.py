"""The run folder: create, append, finish, open, list. `FILES` is its layout; no other module knows it.

The folder is `runs/<card>-<date>-<short hash>`. The log is appended line by line; everything else is written to a
temporary name and renamed, so that a kill at any instant leaves a folder that opens. After a resume the log may hold
a step twice: readers take the later line.
"""

from __future__ import annotations

import html
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from workbench.cards.metric_names import metric_name
from workbench.errors import RunError
from workbench.run_forms import ends_as_parquet, mismatch, parse_log, read_json, unreadable_lines, wrong_column

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

FILES = {
    "record": "run.json",  # status, base, data, device, versions, times, stand-ins; see `Run.record`
    "recipe": "recipe.yaml",  # with provenance
    "card": "card.json",  # absent for a run of a bare recipe
    "log": "log.jsonl",  # one JSON object a line, appended and flushed while training
    "output": "output.txt",  # what a training in the background prints
    "stop": "stop",  # exists while a stop is requested
    "comparison": "comparison.json",
    "checkpoints": "checkpoints",  # resumable; removed once the run has finished
    "model": "model",  # the model that was kept
    "trackers": "trackers",
    "evaluations": "evaluations",
    "queries": "evaluations/{}/queries.parquet",  # query_id, query, relevant (list of document ids)
    "documents": "evaluations/{}/documents.parquet",  # document_id, document: every document retrieved or relevant
    "items": "evaluations/{}/items.parquet",  # item_id, texts, gold: of an evaluation that is not a search
    "values": "evaluations/{}/{}.parquet",  # a row per query (query_id, rank, ranks, metrics) or item
    "hits": "evaluations/{}/{}-hits.parquet",  # query_id, position, document_id, score, relevant
    "metrics": "evaluations/{}/{}.json",  # means of the metrics, and how they were measured
    "vectors": "vectors/{}-{}.safetensors",
    "map": "maps/{}-{}-{}.parquet",
    "map_settings": "maps/{}-{}-{}.json",
}
"""What `Run.file` gives -> its place in the folder. `{}` are the evaluation, then the stage (`before`, `step-N` or
`after`); of a map the evaluation, the method, and `together` or `apart`."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and of how many."""

STATUSES = ("running", "finished", "stopped", "failed", "interrupted", "broken")
"""`interrupted`: run.json says running, but the process is gone. `broken`: run.json cannot be read."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path` when the block succeeds, and is removed when it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(
            f"cannot write {str(path)!r}: {error.strerror or error}; "
            "free some space or choose another folder with --runs."
        ) from error
    finally:
        with suppress(OSError):  # the folder may not exist
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=True) + "\n", encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file, whole or not at all; returns its path."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write `table` as Parquet, whole or not at all."""
    with atomic_write(path) as temporary:
        table.to_parquet(temporary, index=False)


def this_process() -> dict[str, Any]:
    """This process as run.json names it; a pid is used again after a restart, a start time is not."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _start_time(os.getpid())}


def is_alive(process: Mapping[str, Any]) -> bool:
    """Whether the process that `this_process` described still runs; one of another host is assumed to."""
    pid = int(process.get("pid") or -1)
    if not 0 < pid < 1 << 31:  # else no system has such a process
        return False
    if process.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _start_time(pid)
    return started != ENDED and (process.get("started") is None or started is None or started == process["started"])


ENDED = -1


def _start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of the process; `ENDED` for a zombie; None where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return ENDED if fields[0] in ("Z", "X") else int(fields[19])


@dataclass(frozen=True, repr=False)
class Run:
    """A run folder, opened for reading. Every property reads the file as it is now; nothing is cached."""

    path: Path

    def __repr__(self) -> str:
        """Name, status, and the main number of each evaluation before and after.

        >>> Run(Path("runs/nothing-here"))
        <Run 'nothing-here': broken>
        """
        changes = "".join(
            f", {name} {metric} {before} → {after}" for name, metric, before, after in self._main_numbers()
        )
        return f"<Run {self.name!r}: {self.status}{changes}>"

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        import pandas as pd

        notes = () if self.status == "broken" else self.stand_ins
        paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in (f"{self.name}: {self.status}", *notes))
        numbers = pd.DataFrame(self._main_numbers(), columns=["evaluation", "metric", "before", "after"])
        return paragraphs + numbers.to_html(index=False, border=0)

    def _main_numbers(self) -> list[tuple[str, str, str, str]]:
        """Evaluation, main metric, and its value before and after, "-" where there is none (yet)."""
        rows = []
        for name, stages in self.evaluations().items():
            means = {stage: self.metrics(name, stage) for stage in ("before", "after") if stage in stages}
            if means:
                metric = self.main_metric(name, next(iter(means)))
                values = [means.get(stage, {}).get(metric) for stage in ("before", "after")]
                before, after = ("-" if value is None else f"{value:.4f}" for value in values)
                rows.append((name, metric_name(metric), before, after))
        return rows

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def record(self) -> dict[str, Any]:
        """What run.json holds.

        schema_version, status, card, variant, recipe_sha256, created, finished (ISO times, UTC), seconds, process {pid,
        host, started}, base {asked, model, sha256, stand_in, note, unknown_share}, data {source, sha256, stand_in,
        note, rows: {train, validation, test}, more: {name: {source, sha256, rows}}}, trained {path in the recipe: what
        was trained in its place}, checks [{severity, message}], notes (where training departs from the recipe), device,
        precision, processes, versions {package: version}, command (list of words), progress {step, steps, epoch,
        rows_per_second, seconds_left, phase}, best {step, metric, value}, cost {peak_memory (bytes), rows_per_second,
        device, processes, precision, joules (None where nothing counts them), counted (what does)}, peak_memory and
        rows_per_second once more, error (a sentence, where it failed), and of published weights, verification {model,
        path, sha256, precision, metric, problems, causes: [{evaluation, sentence}]}. A phase is "measure STAGE",
        "train", "stopped" or "trained".
        """
        return self._json("record")

    @property
    def status(self) -> str:
        """One of `STATUSES`."""
        try:
            record = self.record
        except RunError:
            return "broken"
        status = str(record.get("status"))
        if status == "running" and not is_alive(record.get("process") or {}):
            return "interrupted"
        return status if status in STATUSES else "broken"

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """A sentence for each stand-in that was used; empty for a run on the card's own base and data."""
        record = self.record
        parts = (record.get("base") or {}, record.get("data") or {})
        return tuple(str(part.get("note", "")) for part in parts if part.get("stand_in"))

    def file(self, name: str, *parts: str) -> Path:
        """The path of a file or folder of the run, whether or not it exists; `name` and `parts`: see `FILES`.

        >>> Run(Path("runs/it")).file("hits", "test", "after").as_posix()
        'runs/it/evaluations/test/after-hits.parquet'
        """
        return self.path / FILES[name].format(*parts)

    def model_folder(self) -> Path:
        """The folder of the model that the run kept, or whose published weights it verified; it may not exist."""
        kept = self.file("model")
        verification = None if kept.is_dir() else self.record.get("verification")
        return kept if verification is None else Path(verification["path"])

    def table(self, name: str, *parts: str, filters: list[tuple[str, str, Any]] | None = None) -> pd.DataFrame:
        """A Parquet file of the run; `filters` are those of `pandas.read_parquet`.

        Raises RunError where the file is missing or damaged.
        """
        import pandas as pd

        read = partial(pd.read_parquet, filters=filters)
        table: pd.DataFrame = self._load(read, "a Parquet table", name, *parts)
        wrong = wrong_column(table, name)
        if wrong or (filters is None and table.empty):
            raise RunError(
                f"expected {wrong or 'rows'} in {str(self.file(name, *parts))!r} as the workbench writes it, found "
                f"{'something else' if wrong else 'none'}; evaluate again, or train again."
            )
        return table

    def stop(self) -> None:
        """Ask the training to stop at its next step, with a checkpoint to resume from.

        Raises RunError where the run is not being trained.
        """
        if self.status != "running":
            raise RunError(f"expected a run that is being trained, found {self.name!r}, which is {self.status}.")
        try:
            self.file("stop").touch()
        except OSError as error:
            raise RunError(f"cannot ask {self.name!r} to stop: {error.strerror or error}.") from error

    def has_stop_request(self) -> bool:
        return self.file("stop").exists()

    def clear_stop_request(self) -> None:
        with suppress(OSError):
            self.file("stop").unlink(missing_ok=True)

    def recipe(self, *, provenance: bool = True) -> Any:
        """The Recipe that was run; without `provenance` it is read sooner, see `load_recipe`."""
        from workbench.recipe.yaml_io import load_recipe

        recipe = load_recipe(self.file("recipe"), provenance=provenance)
        if recipe.card_sha256 is None and self.file("card").exists():  # written by an older version
            return recipe.model_copy(update={"card_sha256": self._json("card").get("sha256") or None})
        return recipe

    def trained_recipe(self) -> Any:
        """The recipe with what was trained where it asks for something else, such as a stand-in; a Recipe."""
        from workbench.recipe.overrides import with_changes
        from workbench.recipe.schema import Origin

        origin, base, trained = (
            Origin(source="file", note=FILES["record"]),
            self.record.get("base"),
            self.record.get("trained"),
        )
        if trained is None and base and base.get("stand_in"):  # written by an older version
            trained = {"base.model": base.get("model"), "base.revision": None}
        return with_changes(self.recipe(), {path: (value, origin) for path, value in (trained or {}).items()})

    def card(self) -> Any | None:
        """The Card that the recipe came from, or None."""
        from workbench.cards.read import card_from_dict

        return card_from_dict(self._json("card")) if self.file("card").exists() else None

    def comparison(self) -> dict[str, Any] | None:
        """What `compare` stored, or None where it has not run. It may be by an older rule: see `read_comparison`."""
        return self._json("comparison") if self.file("comparison").exists() else None

    def map_settings(self, *parts: str) -> dict[str, Any]:
        """How the map of an evaluation, method, and `together` or `apart` was made: parameters, kept."""
        return self._json("map_settings", *parts)

    @overload
    def log(self, *, as_frame: Literal[False] = False) -> list[dict[str, Any]]: ...

    @overload
    def log(self, *, as_frame: Literal[True]) -> pd.DataFrame: ...

    def log(self, *, as_frame: bool = False) -> list[dict[str, Any]] | pd.DataFrame:
        """Log rows, or a DataFrame of them, in order of step, the later line winning where a step was logged twice.

        Keys: step, epoch, time (seconds since the start), and where there are any: loss, learning_rate, grad_norm,
        rows_per_second, eval_loss, components (name -> value, of a loss that has parts), and metrics named
        `<evaluation>_<metric>`. There is a row for every optimizer step; a half-written last line is left out.
        """
        rows: dict[int, dict[str, Any]] = {}
        text = self._load(Path.read_bytes, "a log", "log") if self.file("log").exists() else b""
        for row in parse_log(text.splitlines()):
            rows[row["step"]] = {**rows.get(row["step"], {}), **row}
        ordered = [rows[step] for step in sorted(rows)]
        if not as_frame:
            return ordered
        import pandas as pd

        return pd.DataFrame(ordered, columns=None if ordered else ["step", "epoch", "loss"])

    def load_model(self) -> Any:
        """The SentenceTransformer that the run kept, in float32. Raises RunError where it has none (yet)."""
        import workbench  # a room above this one has it

        return workbench.load_model(self)

    def evaluations(self) -> dict[str, tuple[str, ...]]:
        """Evaluation name -> its stages in order: before, step-N by N, after."""
        found: dict[str, list[str]] = {}
        for path in sorted(self.file("evaluations").glob("*/[!.]*.json")):
            found.setdefault(path.parent.name, []).append(path.stem)
        return {name: tuple(sorted(stages, key=stage_order)) for name, stages in found.items()}

    def metrics(self, evaluation: str, stage: str) -> dict[str, float]:
        """Means over queries, named as the library names them: "cosine_ndcg@10" -> 0.7357."""
        return dict(self._json("metrics", evaluation, stage)["metrics"])

    def main_metric(self, evaluation: str, stage: str) -> str:
        """The evaluation's own main metric; of a search nDCG@10, else its first metric."""
        metrics, own = self.metrics(evaluation, stage), self.settings(evaluation, stage).get("main_metric")
        return str(own or next((name for name in metrics if name.endswith("ndcg@10")), next(iter(metrics), "")))

    def settings(self, evaluation: str, stage: str) -> dict[str, Any]:
        """How an evaluation was measured: similarity, depth, dimensions, numbers of queries and documents, ..."""
        return dict(self._json("metrics", evaluation, stage).get("settings") or {})

    def per_query(self, evaluation: str, stage: str) -> pd.DataFrame:
        """One row per query: query_id, query, relevant, rank (of the first relevant document, 1-based, null beyond
        the depth kept), ranks (of all of them), and one column per metric ("ndcg@10")."""
        return self.joined("queries", evaluation, stage, "query_id")

    def joined(self, name: str, evaluation: str, stage: str, identity: str) -> pd.DataFrame:
        """The table `name` of an evaluation and its values at a stage, which have the same rows, by the column
        `identity`."""
        table, values = self.table(name, evaluation), self.table("values", evaluation, stage)
        if identity not in values or set(table[identity]) != set(values[identity]):
            raise RunError(
                f"expected values of the {len(table):,} rows of {str(self.file(name, evaluation))!r} in "
                f"{str(self.file('values', evaluation, stage))!r}, found those of others; evaluate again."
            )
        return table.merge(values, on=identity)

    def documents(self, evaluation: str) -> pd.DataFrame:
        """Every document retrieved or relevant: document_id, document."""
        return self.table("documents", evaluation)

    def hits(self, evaluation: str, stage: str) -> pd.DataFrame:
        """The stored rankings: query_id, position (1-based), document_id, document, score, relevant."""
        documents = self.documents(evaluation)
        return self.table("hits", evaluation, stage).merge(documents, on="document_id", how="left")

    def _json(self, name: str, *parts: str) -> dict[str, Any]:
        value: Any = self._load(read_json, "JSON", name, *parts)
        path = str(self.file(name, *parts))
        if not isinstance(value, dict):
            raise RunError(f"expected a JSON object in {path!r}, found {type(value).__name__}; the run cannot be read.")
        if wrong := mismatch(value, name):
            raise RunError(f"expected {wrong[0]!r} in {path!r} as the workbench writes it, found {wrong[1]}.")
        return value

    def _load(self, read: Callable[[Path], Any], kind: str, name: str, *parts: str) -> Any:
        path = self.file(name, *parts)
        if not path.is_file():
            raise RunError(
                f"expected the {name.replace('_', ' ')}{' of ' * bool(parts)}{', '.join(map(repr, parts))} in run "
                f"{self.name!r}, found none; it has not come so far, or files of it are gone."
            )
        try:
            return read(path)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            found = getattr(error, "strerror", None) or "something else"
            found += f" in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            advice = f"`workbench compare {self.name}` makes it again" if name == "comparison" else "train again"
            raise RunError(f"expected {kind} in {str(path)!r}, found {found}; {advice}.") from error

    def damages(self) -> tuple[str, ...]:
        """What is missing or damaged in a run that has ended, a sentence each. Only the ends of files are looked at."""
        if self.status in ("running", "broken"):
            return ()
        found = []
        stages = {stage for each in self.evaluations().values() for stage in each}
        if self.status == "finished" and "after" not in stages:
            found.append("It is finished and has no evaluation after training.")
        cut = [path for path in sorted(self.file("evaluations").glob("*/*.parquet")) if not ends_as_parquet(path)]
        if cut:
            names = ", ".join(repr(path.relative_to(self.file("evaluations")).as_posix()) for path in cut)
            found.append(f"Its evaluations cannot be read: {names} {'is' if len(cut) == 1 else 'are'} cut off.")
        if lines := unreadable_lines(self.file("log")):
            found.append(f"Its log has {lines:,} {'line' if lines == 1 else 'lines'} that cannot be read.")
        return tuple(found)


def rate_text(rows_per_second: float) -> str:
    """Speed of a training: two digits of a slow one, which is not 0.

    >>> rate_text(1234.5), rate_text(0.314)
    ('1,234 rows/s', '0.31 rows/s')
    """
    return f"{rows_per_second:,.0f} rows/s" if rows_per_second >= 10 else f"{rows_per_second:.2g} rows/s"


def stage_order(stage: str) -> tuple[int, int]:
    """Sort key: before, then step-N by N, then after.

    >>> sorted(["after", "step-20", "before", "step-3"], key=stage_order)
    ['before', 'step-3', 'step-20', 'after']
    """
    if stage.startswith("step-") and stage[5:].isdigit():
        return (1, int(stage[5:]))
    return ({"before": 0, "after": 2}.get(stage, 3), 0)


class RunWriter:
    """The one writer of a run folder; with `writes=False`, in a process that is not the first, it writes nothing."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.run, self.writes = path, Run(path), writes

    def update(self, **fields: Any) -> None:
        """Merge `fields` into run.json."""
        if self.writes:
            write_json(self.run.file("record"), {**self.run.record, **fields})

    def remove_half_written(self) -> None:
        """Remove the files that a killed process was writing."""
        for path in self.path.rglob(".*.tmp"):
            with suppress(OSError):
                path.unlink()

    def log(self, *rows: Mapping[str, Any]) -> None:
        """Append rows to the log, on the disk when this returns."""
        if not self.writes or not rows:
            return
        lines = "".join(json.dumps(dict(row), ensure_ascii=False, allow_nan=True) + "\n" for row in rows)
        try:
            with self.run.file("log").open("ab+") as file:
                if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                    lines = "\n" + lines  # after a half line that a kill left
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                f"cannot append to the log in {str(self.path)!r}: {error.strerror or error}; "
                "free some space and resume."
            ) from error


def create(
    root: Path, *, card_name: str, recipe_sha256: str, record: Mapping[str, Any], write: Callable[[Run], None]
) -> RunWriter:
    """Make a new run folder under `root`; run.json comes last, so that a half-made folder is never listed.

    `write(run)` writes the other first files (recipe, card).
    """
    stem = f"{card_name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{recipe_sha256[:6]}"
    made = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in count():
            path = root / (f"{stem}-{number}" if number else stem)
            with suppress(FileExistsError):
                path.mkdir()
                made = Run(path)
                break
        assert made is not None
        write(made)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        first = {"schema_version": SCHEMA_VERSION, "status": "running", "created": created, "process": this_process()}
        write_json(made.file("record"), {**first, **record})
    except OSError as error:
        raise RunError(
            f"cannot make a run folder in {str(root)!r}: {error.strerror or error}; choose another with --runs."
        ) from error
    finally:
        if made is not None and not made.file("record").exists():
            shutil.rmtree(made.path, ignore_errors=True)
    return RunWriter(made.path)


def open_run(path: str | os.PathLike[str], runs: str | os.PathLike[str] = "runs") -> Run:
    """Open a run by its folder; or, in the folder `runs`, by its name, its beginning, or "latest". A Run is itself.

    Raises RunError where there is no run.json, or several runs begin so.
    """
    if isinstance(path, Run):
        return path
    for run in (Run(Path(path)), Run(Path(runs) / Path(path).name)):
        if run.file("record").is_file():
            return run
    name, known = str(path), list_runs(runs)
    found = known[:1] if name == "latest" else [run for run in known if name and run.name.startswith(name)]
    if len(found) == 1 and not Path(path).exists():
        return found[0]
    if len(found) > 1:
        names = ", ".join(run.name for run in found[:5])
        raise RunError(f"expected one run, found {len(found)} that begin with {name!r} ({names}); write more of it.")
    raise RunError(
        f"expected a run (a folder that holds run.json), found none at {name!r} or in the folder "
        f"{os.path.abspath(runs)!r}; `workbench runs` lists those there are, --runs names another folder."
    )


def list_runs(root: str | os.PathLike[str] = "runs") -> list[Run]:
    """All runs under `root`, newest first; folders without run.json are not runs, unreadable ones are `broken`."""

    def creation_time(run: Run) -> str:
        with suppress(RunError):
            return str(run.record.get("created", ""))
        return ""

    found = [Run(path.parent) for path in Path(root).glob(f"*/{FILES['record']}")]
    return sorted(found, key=lambda run: (creation_time(run), run.name), reverse=True)
