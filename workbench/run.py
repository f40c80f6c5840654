"""The run folder: create, append, finish, open, list. `FILES` is its layout, and nothing else knows it.

The folder is `runs/<card>-<date>-<short hash>`. The log is appended line by line; everything else is written to a
temporary name and renamed, so a kill at any instant leaves a folder that opens. After a resume the log may hold a step
twice: readers take the later line.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RunError

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
"""What `Run.status` can say. `interrupted`: it says running, but its process is gone. `broken`: it cannot be read."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well, and vanishes when it does not.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("whole or not at all")
    >>> target.read_text()
    'whole or not at all'
    """
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
        with suppress(OSError):  # where the folder itself could not be made
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=True) + "\n", encoding="utf-8")


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write `table` as Parquet, whole or not at all."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)


def this_process() -> dict[str, Any]:
    """What identifies this process in run.json: its number comes again after a restart, its start does not."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}


def alive(process: Mapping[str, Any]) -> bool:
    """Whether the process that `this_process` described still runs; one of another host is taken to be alive."""
    pid = int(process.get("pid", -1))
    if pid <= 0:
        return False
    if process.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _started(pid)
    return started != ENDED and (process.get("started") is None or started is None or started == process["started"])


ENDED = -1


def _started(pid: int) -> int | None:
    """Clock ticks from the start of the machine to that of the process; `ENDED` for one that only waits to be
    collected; None where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return ENDED if fields[0] in ("Z", "X") else int(fields[19])


@dataclass(frozen=True, repr=False)
class Run:
    """A run folder, opened for reading. Every property reads the file as it is now; nothing is kept."""

    path: Path

    def __repr__(self) -> str:
        """Name, status, and the main number of each evaluation before and after.

        >>> Run(Path("runs/nothing-here"))
        <Run 'nothing-here': broken>
        """
        moved = "".join(f", {name} {metric} {before} → {after}" for name, metric, before, after in self._main_numbers())
        return f"<Run {self.name!r}: {self.status}{moved}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(metric)}</td><td>{before}</td><td>{after}</td></tr>"
            for name, metric, before, after in self._main_numbers()
        )
        head = "<tr><th>evaluation</th><th>metric</th><th>before</th><th>after</th></tr>"
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self._stand_ins_if_readable())
        return f"<p>{html.escape(self.name)}: {self.status}</p>{notes}<table>{head}{rows}</table>"

    def _stand_ins_if_readable(self) -> tuple[str, ...]:
        return () if self.status == "broken" else self.stand_ins

    def _main_numbers(self) -> Iterator[tuple[str, str, str, str]]:
        """Evaluation, its main metric, and that before and after, a dash where one is not there (yet)."""
        for name, moments in self.evaluations().items():
            means = {moment: self.metrics(name, moment) for moment in ("before", "after") if moment in moments}
            if not means:
                continue
            known = next(iter(means.values()))
            main = self.settings(name, next(iter(means))).get("main_metric")
            metric = main or next((key for key in known if key.endswith("_ndcg@10")), next(iter(known), ""))
            before, after = (means.get(moment, {}).get(metric) for moment in ("before", "after"))
            said = ["-" if value is None else f"{value:.4f}" for value in (before, after)]
            yield name, "nDCG@10" if metric.endswith("_ndcg@10") else str(metric), said[0], said[1]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def record(self) -> dict[str, Any]:
        """What run.json holds.

        schema_version, status, card, variant, recipe_sha256, created, finished (ISO times, UTC), seconds, process
        {pid, host, started}, base {asked, model, sha256, stand_in, note, unknown_share}, data {source, sha256,
        stand_in, note, rows: {train, validation, test}, more: {name: {source, sha256, rows}}}, checks [{severity,
        message}], notes (where training departs from the recipe), device, precision, processes, versions {package:
        version}, command (list of words), progress {step, steps, epoch, rows_per_second, seconds_left, phase}, best
        {step, metric, value}, cost {peak_memory (bytes), rows_per_second, device, processes, precision, joules (None
        where nothing counts them), counted (what does)}, peak_memory and rows_per_second once more, error (a sentence,
        where it failed). A phase is "measure MOMENT", "train", "stopped" or "trained".
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
        process = record.get("process") or {}
        if status == "running" and not alive(process):
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

    def table(self, name: str, *parts: str, filters: list[tuple[str, str, Any]] | None = None) -> pd.DataFrame:
        """A Parquet file of the run; `filters` are those of `pandas.read_parquet`.

        Raises RunError where the file is missing or damaged.
        """
        import pandas as pd
        from pyarrow import ArrowException

        path = self._existing(name, *parts)
        try:
            return pd.read_parquet(path, filters=filters)
        except (OSError, ArrowException) as error:
            raise RunError(f"expected a Parquet table in {str(path)!r}, found something else ({error}).") from error

    def stop(self) -> None:
        """Ask the training to end at its next step, with a checkpoint; it can be resumed then.

        Raises RunError where nobody trains the run.
        """
        if self.status != "running":
            raise RunError(f"expected a run that is being trained, found {self.name!r}, which is {self.status}.")
        try:
            self.file("stop").touch()
        except OSError as error:
            raise RunError(f"cannot ask {self.name!r} to stop: {error.strerror or error}.") from error

    def stop_asked(self) -> bool:
        """Whether somebody has asked the training to end."""
        return self.file("stop").exists()

    def forget_stop(self) -> None:
        """Take the request back."""
        with suppress(OSError):
            self.file("stop").unlink(missing_ok=True)

    def recipe(self) -> Any:
        """The Recipe that was run."""
        from workbench.recipe.yaml_io import load_recipe

        recipe = load_recipe(self.file("recipe"))
        if recipe.card_sha256 is None and self.file("card").exists():  # written by an older version
            return recipe.model_copy(update={"card_sha256": self._json("card").get("sha256") or None})
        return recipe

    def card(self) -> Any | None:
        """The Card that the recipe came from, or None."""
        from workbench.cards.read import card_from_dict

        return card_from_dict(self._json("card")) if self.file("card").exists() else None

    def comparison(self) -> dict[str, Any] | None:
        """What `compare` stored, or None where it has not run."""
        if not self.file("comparison").exists():
            return None
        stored = self._json("comparison")
        for each in (stored, *stored.get("rows", ())):
            if each.get("verdict") == "not told apart":  # as older versions wrote it
                each["verdict"] = "no significant difference"
        return stored

    def log(self) -> list[dict[str, Any]]:
        """Log rows in order of step, the later line winning where a step was logged twice.

        Keys: step, epoch, time (seconds since the start), and of loss, learning_rate, grad_norm, rows_per_second,
        eval_loss, components (name -> value, of a loss that has parts), and metrics named `<evaluation>_<metric>`,
        those that there are. A row for every optimizer step; a half-written last line is left out.
        """
        path = self.file("log")
        rows: dict[int, dict[str, Any]] = {}
        if not path.exists():
            return []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed while writing it
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows[row["step"]] = {**rows.get(row["step"], {}), **row}
        return [rows[step] for step in sorted(rows)]

    def evaluations(self) -> dict[str, tuple[str, ...]]:
        """Evaluation name -> its stages in order: before, step-N by N, after."""
        found: dict[str, tuple[str, ...]] = {}
        root = self.file("evaluations")
        for folder in sorted(root.iterdir()) if root.is_dir() else []:
            stages = [path.stem for path in folder.glob("*.json") if not path.name.startswith(".")]
            if stages:
                found[folder.name] = tuple(sorted(stages, key=stage_order))
        return found

    def metrics(self, evaluation: str, stage: str) -> dict[str, float]:
        """Means over queries, named as the library names them: "cosine_ndcg@10" -> 0.7357."""
        return dict(self._json("metrics", evaluation, stage)["metrics"])

    def settings(self, evaluation: str, stage: str) -> dict[str, Any]:
        """How an evaluation was measured: similarity, depth, dimensions, numbers of queries and documents, ..."""
        return dict(self._json("metrics", evaluation, stage).get("settings") or {})

    def per_query(self, evaluation: str, stage: str) -> pd.DataFrame:
        """One row per query: query_id, query, relevant, rank (of the first relevant document, 1-based, null beyond
        the depth kept), ranks (of all of them), and one column per metric ("ndcg@10")."""
        return self.table("queries", evaluation).merge(self.table("values", evaluation, stage), on="query_id")

    def documents(self, evaluation: str) -> pd.DataFrame:
        """Every document retrieved or relevant: document_id, document."""
        return self.table("documents", evaluation)

    def hits(self, evaluation: str, stage: str) -> pd.DataFrame:
        """The stored rankings: query_id, position (1-based), document_id, document, score, relevant."""
        documents = self.documents(evaluation)
        return self.table("hits", evaluation, stage).merge(documents, on="document_id", how="left")

    def _existing(self, name: str, *parts: str) -> Path:
        path = self.file(name, *parts)
        if not path.is_file():
            raise RunError(
                f"expected {path.relative_to(self.path).as_posix()!r} in the run folder {str(self.path)!r}, found "
                "none; is it a run, and did it get so far?"
            )
        return path

    def _json(self, name: str, *parts: str) -> dict[str, Any]:
        path = self._existing(name, *parts)
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise RunError(
                f"expected JSON in {str(path)!r}, found something else ({error}); the run cannot be read."
            ) from error
        if not isinstance(value, dict):
            raise RunError(
                f"expected a JSON object in {str(path)!r}, found {type(value).__name__}; the run cannot be read."
            )
        return value


def stage_order(stage: str) -> tuple[int, int]:
    """Sort key: before, then step-N by N, then after.

    >>> sorted(["after", "step-20", "before", "step-3"], key=stage_order)
    ['before', 'step-3', 'step-20', 'after']
    """
    if stage.startswith("step-") and stage[5:].isdigit():
        return (1, int(stage[5:]))
    return ({"before": 0, "after": 2}.get(stage, 3), 0)


class RunWriter:
    """The one writer of a run folder.

    `update` merges keys into run.json; `log` appends rows and flushes them to the disk.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """`writes`: False in a process that trains along; it writes nothing."""
        self.path = path
        self.run = Run(path)
        self.writes = writes

    def update(self, **fields: Any) -> None:
        if not self.writes:
            return
        write_json(self.path / "run.json", {**self.run.record, **fields})

    def log(self, *rows: Mapping[str, Any]) -> None:
        """Append rows to the log, on the disk when this returns."""
        if not self.writes or not rows:
            return
        lines = "".join(json.dumps(dict(row), ensure_ascii=False, allow_nan=True) + "\n" for row in rows)
        try:
            with (self.path / "log.jsonl").open("ab+") as file:
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
    root: Path, *, card_name: str, recipe_sha256: str, record: Mapping[str, Any], write: Callable[[Path], None]
) -> RunWriter:
    """Make a new run folder under `root` and put run.json in it last, so that a half-made folder is never listed.

    `write(folder)` puts the other first files (recipe.yaml, card.json) there.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    stem = f"{card_name}-{stamp}-{recipe_sha256[:6]}"
    path, made = root / stem, None
    try:
        root.mkdir(parents=True, exist_ok=True)
        for again in range(1000):
            path = root / (stem if again == 0 else f"{stem}-{again}")
            try:
                path.mkdir()
                made = path
                break
            except FileExistsError:
                continue
        write(path)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_json(
            path / "run.json",
            {
                "schema_version": SCHEMA_VERSION,
                "status": "running",
                "created": created,
                "process": this_process(),
                **record,
            },
        )
    except OSError as error:
        raise RunError(
            f"cannot make a run folder in {str(root)!r}: {error.strerror or error}; choose another with --runs."
        ) from error
    finally:
        if made is not None and not (made / "run.json").exists():
            shutil.rmtree(made, ignore_errors=True)
    return RunWriter(path)


def open_run(path: str | os.PathLike[str], runs: str | os.PathLike[str] = "runs") -> Run:
    """Open a run by its folder, or by its name inside the folder `runs`.

    Raises RunError where there is no run.json.
    """
    for candidate in (Path(path), Path(runs) / Path(path).name):
        if (candidate / "run.json").is_file():
            return Run(candidate)
    raise RunError(
        f"expected a run folder (one that holds run.json), found none at {str(path)!r}; "
        "`workbench runs` lists those there are."
    )


def list_runs(root: str | os.PathLike[str] = "runs") -> list[Run]:
    """All runs under `root`, newest first; folders without run.json are not runs, unreadable ones are `broken`."""
    folder = Path(root)
    found = [Run(path.parent) for path in folder.glob("*/run.json")] if folder.is_dir() else []
    return sorted(found, key=lambda run: (_created(run), run.name), reverse=True)


def _created(run: Run) -> str:
    try:
        return str(run.record.get("created", ""))
    except RunError:
        return ""
