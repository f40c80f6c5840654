"""Markdown text of a model card, and the files beside it -> Card.

    bytes ── text ──► lines ── structure ──► sections, tables, fences ── sections ──► facts ──┐
                                             YAML header ─────────── header ──────────────────┼──► Card
                                             files beside the card ───────────────────────────┘

Everything that the card states is read, nothing is inferred, and lines that no reader understood are listed in
`card.unread`. A fact that only a file beside the card states comes from that file, named in `source`. Where both state
it, the card's is taken, and `card.beside` has the file's content for the audit.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import math
import os
import re
import threading
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workbench.cards import literals, lookup
from workbench.cards.builder import Sheet
from workbench.cards.card import Card, Dataset, Kind, LogRow, Module, Stated, Unread
from workbench.cards.card_json import card_from_dict, card_to_dict
from workbench.cards.front_matter import Header, read_header, texts
from workbench.cards.markdown import find_structure, second_card
from workbench.cards.sections import read_sections
from workbench.cards.text import MAX_BYTES, check_size, read_text
from workbench.errors import CardError, NotACardError, WorkbenchError, check_installed
from workbench.resources import shipped_path

__all__ = ["card_from_dict", "card_to_dict", "parse_card", "read_card", "shipped_cards"]

BESIDE = (
    "trainer_state.json",
    "adapter_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "config.json",
    "1_Pooling/config.json",
)
"""Files beside a card that complete it; evaluation results (`*.csv`) and the last checkpoint's state come with them."""

_HUB_SECONDS = 4.0
_POINTER = b"version https://git-lfs.github.com/spec/"
_LONGEST_BESIDE = 20_000_000  # bytes; a trainer_state.json of a long run has a few million
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+$|[A-Za-z0-9][\w.-]*$")
_KINDS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("setfit", ("setfit",)),
    ("multi-vector", ("pylate", "colbert", "multivectorencoder", "multi-vector", "late-interaction")),
    ("cross-encoder", ("crossencoder", "cross-encoder", "cross encoder")),
    ("sparse-encoder", ("sparseencoder", "sparse-encoder", "sparse encoder", "splade", "csr ", "inference-free")),
    ("sentence-transformer", ("sentencetransformer", "sentence-transformers", "sentence transformer", "sbert.net")),
)
_MARKS = re.compile(r"sentence-transformers|sbert\.net|SentenceTransformer|CrossEncoder|SparseEncoder|PyLate|pylate")


def read_card(source: str | os.PathLike[str], *, revision: str | None = None) -> Card:
    """The card at `source`: a Markdown file, a folder with a README.md, the name of a shipped card, or a Hub id; or the
    card that a run came from (`source` is a Run or its folder).

    `revision` is a branch, tag or commit of a Hub id, main by default; of anything else there is none.

    Files beside the card are read with it: those in `BESIDE` from its folder, or `NAME.<file>` beside `NAME.md`.
    Raises CardError for anything that cannot be read as a card.
    """
    path, name = Path(source), str(source)
    if revision is not None:
        return read_hub_card(name, revision)
    try:
        file = path / "README.md" if path.is_dir() else path
        if file.is_file():
            return _read_file(file)
        if (path / "card.json").is_file():  # as `card_to_dict` wrote it into a run folder
            return card_from_dict(json.loads((path / "card.json").read_bytes()))
    except OSError as error:
        raise CardError(f"Expected a readable model card, found {str(path)!r} ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise CardError(f"Expected a card in {str(path / 'card.json')!r}, found other JSON ({error}).") from error
    if path.is_dir():
        raise CardError(
            f"Expected a README.md in the folder {str(path)!r}, found none; pass the folder of a model card."
        )
    if at := _shipped_files().get(name):
        return read_card(at)
    near = get_close_matches(name, _shipped_files(), n=1, cutoff=0.75)
    if near and "/" not in name:
        raise CardError(f"Expected a shipped card, found {name!r}. Did you mean {near[0]}?")
    if not name.endswith(".md") and "\\" not in name and _HUB_ID.match(name):
        return read_hub_card(name)
    known = ", ".join(shipped_cards()) or "none"
    raise CardError(
        f"Expected a Markdown file, a folder with a README.md, a shipped card ({known}) or a Hub id, found {name!r}, "
        "which is none of them."
    )


def card_file(source: str | os.PathLike[str]) -> Path | None:
    """The README.md that `read_card` would read for `source`; None for a Hub id, or where there is none."""
    path = Path(source)
    file = path / "README.md" if path.is_dir() else path
    return file if file.is_file() else _shipped_files().get(str(source))


def shipped_cards() -> tuple[str, ...]:
    """Names of the cards in `data/cards`; `read_card` takes each of them."""
    return tuple(_shipped_files())


def parse_card(data: bytes, *, name: str, beside: Mapping[str, bytes] | None = None) -> Card:
    """The card in `data`, the bytes of a README.md; `beside` maps file names to the bytes of files beside it.

    Raises CardError for what is no card: binary, empty, too long, or without any mark of Sentence Transformers.
    """
    if not data.strip():
        raise CardError(f"Expected the text of a model card, found an empty file in {name!r}; pass the README.md.")
    if data.startswith(_POINTER):
        raise CardError(
            f"Expected the text of a model card, found a Git LFS pointer in {name!r}; run `git lfs pull` in its "
            "repository."
        )
    lines, text = read_text(data, name)
    structure = find_structure(lines)
    unread = []
    if (second := second_card(structure)) is not None:
        unread.append(Unread("", (second, len(lines)), lookup.SECOND))
        structure = find_structure(lines[: second - 1])
    header = Header() if structure.header is None else read_header(lines, *structure.header)
    sheet = read_sections(structure)
    _check_card(sheet, header, name)
    unread += [Unread("header", (first, last), reason) for first, last, reason in header.broken]
    if structure.header is not None and not structure.header_closed:
        unread.append(Unread("header", (structure.header[0], structure.header[0]), "header without its closing ---"))
    _fall_back(sheet, header)
    files, broken = _parse_beside(beside or {})
    _complete(sheet, files)
    version = sheet.versions.get("Sentence Transformers") or sheet.versions.get("PyLate")
    title = next((section.title for section in structure.sections if section.level == 1), None)
    kind = _kind(sheet, header, title)
    if kind == "setfit" and (stated := sheet.hyperparameters.get("loss")):  # its card has no section of a dataset
        line = stated.line or 0
        of_body = literals.loss(str(stated.value), {}, line, {})
        sheet.datasets.append(Dataset("train", None, loss=of_body, lines=(line, line), facts={"loss": line}))
    facts = ("base_model", "base_revision", "similarity", "max_seq_length", "output_dimension")
    parts = ("modules", "datasets", "evaluations", "citations")
    same = ("description", "non_default", "hyperparameters", "training_time", "versions")
    read: dict[str, Any] = {key: sheet.facts.get(key) for key in facts}
    read |= {key: tuple(getattr(sheet, key)) for key in parts} | {key: getattr(sheet, key) for key in same}
    return Card(
        name=literals.plain(name),
        kind=kind,
        title=title,
        library_version=None if version is None else version.value,
        languages=texts(header.data, "language"),
        license=next(iter(texts(header.data, "license")), None),
        tags=texts(header.data, "tags"),
        training_log=tuple(sheet.log),
        model_index=tuple(header.results),
        front_matter=header.data,
        beside=files,
        unread=tuple(sorted([*unread, *broken, *sheet.unread], key=lambda part: part.lines)),
        text=text,
        lines=tuple(lines),
        sha256=hashlib.sha256(data).hexdigest(),
        **read,
    )


def _check_card(sheet: Sheet, header: Header, name: str) -> None:
    lines = sheet.structure.lines
    found = sheet.modules or sheet.datasets or sheet.evaluations or sheet.non_default
    named = header.data.get("library_name") in ("sentence-transformers", "PyLate")
    tagged = "sentence-transformers" in texts(header.data, "tags")
    if found or named or tagged or "Model Type" in sheet.description or any(map(_MARKS.search, lines)):
        return
    first = next((line.strip() for line in lines if line.strip()), "")[:60]
    raise NotACardError(
        f"Expected the model card of a Sentence Transformers model, found a text without any of its marks in {name!r} "
        f"(it starts with {first!r}); pass the model's README.md."
    )


def _kind(sheet: Sheet, header: Header, title: str | None) -> Kind:
    """From the most telling place that says it: the architecture, the model type, the tags, the title."""
    model_type = sheet.description.get("Model Type")
    tags = " ".join(texts(header.data, "tags"))
    library = str(header.data.get("library_name", ""))
    for place in (sheet.pipeline, model_type and model_type.value, tags, title, library):
        low = (place or "").lower()
        for kind, words in _KINDS:
            if low and any(word in low for word in words):
                return kind
    return "sentence-transformer" if sheet.modules else "unknown"


def _fall_back(sheet: Sheet, header: Header) -> None:
    """Facts from elsewhere on a card whose description leaves them out, as on those from before 3.0."""
    base = texts(header.data, "base_model")
    if base:
        sheet.facts.setdefault("base_model", Stated(base[0], header.key_lines.get("base_model")))
    for fact, elsewhere in (
        ("base_model", "intro_base"),
        ("max_seq_length", "module_max_seq_length"),
        ("output_dimension", "intro_dimension"),
    ):
        if elsewhere in sheet.facts:
            sheet.facts.setdefault(fact, sheet.facts[elsewhere])


def _parse_beside(files: Mapping[str, bytes]) -> tuple[dict[str, Any], list[Unread]]:
    parsed: dict[str, Any] = {}
    broken = []
    for name, data in files.items():
        if data.startswith(_POINTER):
            broken.append(Unread(name, (1, 1), lookup.POINTER))
            continue
        try:
            text = data.decode("utf-8-sig")
            if name.endswith(".csv"):
                rows = csv.DictReader(io.StringIO(text))
                parsed[name] = [
                    {str(key): _csv_value(cell) for key, cell in row.items() if isinstance(cell, str)} for row in rows
                ]
            else:
                parsed[name] = literals.read_json(text)
        except (ValueError, RecursionError, csv.Error) as error:
            broken.append(Unread(name, (1, 1), f"file beside the card that cannot be read: {type(error).__name__}"))
    return parsed, broken


def _csv_value(cell: str) -> Any:
    found = literals.number(cell)
    return literals.plain(cell if found is None else found)


_COMPLETING: tuple[tuple[str, str, str, type], ...] = (
    ("max_seq_length", "sentence_bert_config.json", "max_seq_length", int),
    ("base_model", "adapter_config.json", "base_model_name_or_path", str),
    ("base_model", "config.json", "_name_or_path", str),
    ("base_revision", "adapter_config.json", "revision", str),
    ("output_dimension", "1_Pooling/config.json", "word_embedding_dimension", int),
    ("similarity", "config_sentence_transformers.json", "similarity_fn_name", str),
)
"""(fact, file beside the card, its key, type)"""


def _complete(sheet: Sheet, files: Mapping[str, Any]) -> None:
    """Facts that the card leaves out and a file states."""

    def content(file: str) -> dict[str, Any]:
        return found if isinstance(found := files.get(file), dict) else {}

    for fact, file, key, kind in _COMPLETING:
        value = content(file).get(key)
        theirs, ours = content(file).get("base_model_name_or_path"), sheet.facts.get("base_model")
        if isinstance(theirs, str) and ours is not None and lookup.same_model(theirs, ours.value) is False:
            continue  # see lookup.foreign_adapter
        if fact not in sheet.facts and isinstance(value, kind) and value and value is not True:
            sheet.facts[fact] = Stated(value, None, file)
    config = "config_sentence_transformers.json"
    shown = content(config).get("__version__")
    for name in ("Sentence Transformers", "Transformers", "PyTorch"):
        value = shown.get(name.lower().replace(" ", "_")) if isinstance(shown, dict) else None
        if isinstance(value, str):
            sheet.versions.setdefault(name, Stated(value, None, config))
    if not sheet.modules and isinstance(listed := files.get("modules.json"), list):
        types = [(at, str(entry.get("type", ""))) for at, entry in enumerate(listed) if isinstance(entry, dict)]
        sheet.modules.extend(Module(at, name.rsplit(".", 1)[-1], {}) for at, name in types)
    if not sheet.log:
        sheet.log.extend(_state_log(content("trainer_state.json")))


def _state_log(state: Mapping[str, Any]) -> Iterator[LogRow]:
    """The log of trainer_state.json, one row per step as the card prints it."""
    rows: dict[int, dict[str, float]] = {}
    for step, entry in lookup.logged_entries(state):
        numbers = {key: float(item) for key, item in entry.items() if isinstance(item, int | float)}
        rows.setdefault(step, {}).update(numbers)
    for step, entry in rows.items():
        if "loss" not in entry and not any(key.startswith("eval_") for key in entry):
            continue
        epoch, loss, validation = (entry.get(key) for key in ("epoch", "loss", "eval_loss"))
        metrics = {
            key.removeprefix("eval_"): item
            for key, item in entry.items()
            if key.startswith("eval_") and key != "eval_loss" and not key.endswith(("_runtime", "_per_second"))
        }
        epoch = epoch if epoch is not None and math.isfinite(epoch) else None
        yield LogRow(epoch, step, loss, validation, metrics, source="trainer_state.json")


def _bytes_of(path: Path) -> bytes:
    check_size(path.stat().st_size, str(path))
    return path.read_bytes()


def _read_file(path: Path) -> Card:
    """The card in a file, with the known files in its folder, or `NAME.<file>` beside `NAME.md`."""
    folder = path.parent
    name = path.stem
    if path.name.lower() == "readme.md":
        name = folder.resolve().name
        results = [*folder.glob("*results*.csv"), *folder.glob("eval/*.csv")]
        results += sorted(folder.glob("checkpoint-*/trainer_state.json"), key=_step_of)[-1:]
        files = [*(folder / file for file in BESIDE), *sorted(results)[:50]]
        found = {file.relative_to(folder).as_posix(): file for file in files}
    else:
        ends = {file.name[len(path.stem) + 1 :]: file for file in sorted(folder.glob(f"{glob.escape(path.stem)}.*"))}
        found = {end: file for end, file in ends.items() if end in BESIDE or end.endswith("results.csv")}
    readable = {end: file for end, file in found.items() if file.is_file() and file.stat().st_size <= _LONGEST_BESIDE}
    return parse_card(_bytes_of(path), name=name, beside={end: file.read_bytes() for end, file in readable.items()})


def _step_of(path: Path) -> int:
    found = literals.number(path.parent.name.rpartition("-")[2])
    return found if isinstance(found, int) else -1


def _shipped_files() -> dict[str, Path]:
    """Short name -> file of every card in `data/cards`."""
    out: dict[str, Path] = {}
    try:
        folder = shipped_path("data/cards")
    except WorkbenchError:
        return out
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "README.md").is_file():
            out.setdefault(path.name, path / "README.md")
        elif path.suffix == ".md" and path.name != "README.md":
            out.setdefault(path.stem, path)
    return out


def read_hub_card(name: str, revision: str = "main") -> Card:
    """A card from the Hub by its id: from the local cache, else over the network within seconds.

    Raises CardError for no id, and where the card is neither in the cache nor can be had.
    """
    check_installed("huggingface_hub")
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = {file: try_to_load_from_cache(name, file, revision=revision) for file in ("README.md", *BESIDE)}
    except HFValidationError as error:
        raise CardError(
            f"Expected the id of a model on the Hub, found {name!r}, which cannot be one; pass owner/model."
        ) from error
    found = {file: _bytes_of(Path(path)) for file, path in cached.items() if isinstance(path, str)}
    if "README.md" not in found:
        reason = "it is not in the local cache and HF_HUB_OFFLINE is set"
        if not constants.HF_HUB_OFFLINE:
            found, reason = _fetch(f"{constants.ENDPOINT}/{name}/resolve/{quote(revision, safe='')}")
        if "README.md" not in found:
            at = "" if revision == "main" else f" --revision {revision}"
            raise CardError(
                f"Expected a card under the Hub id {name!r}, found none: {reason}; "
                f"fetch it with `hf download {name} README.md{at}` where there is a network, or pass a file"
                f"{'' if '/' in name else ' or a shipped card: ' + ', '.join(_shipped_files())}."
            )
    return parse_card(found.pop("README.md"), name=name.rsplit("/", 1)[-1], beside=found)


def _fetch(address: str) -> tuple[dict[str, bytes], str]:
    """Files of a model over the network, or the reason why there are none.

    Without a network `huggingface_hub` retries for 24 seconds. This asks once, in a thread, because the look-up of a
    host name has no time limit.
    """
    import http.client
    import urllib.request

    found: dict[str, bytes] = {}
    reasons: list[str] = []

    def ask() -> None:
        for file in ("README.md", *BESIDE):
            try:
                with urllib.request.urlopen(f"{address}/{file}", timeout=_HUB_SECONDS) as answer:
                    found[file] = answer.read(MAX_BYTES + 1)
            except (OSError, http.client.HTTPException, ValueError) as error:
                reasons.append(f"asking the Hub failed ({error})")
                if file == "README.md":
                    return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HUB_SECONDS)
    return dict(found), reasons[0] if reasons else f"the Hub did not answer within {_HUB_SECONDS:g} seconds"
