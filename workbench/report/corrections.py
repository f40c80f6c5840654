"""Card -> the text of its README.md with what is certain put right, as a unified diff.

A card is the record of a training: its hyperparameters stay as they are even where the audit advises others, because
they are what ran. Changed is only what is wrong or missing in the text itself and known for certain:

    text-damaged      a wrong decoding that could be undone
    model-id          the library's placeholder, where the model's Hub id is given
    hidden-adapter    the adapter that a file beside the card describes
    hidden-prompts    the prompts that a file beside the card configures

Everything else that the audit finds only the author can decide; `proposal` lists it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from workbench.audit.finding import some
from workbench.audit.rules_model import hidden_adapter, hidden_prompts
from workbench.cards import lookup
from workbench.cards.card import Card
from workbench.cards.text import LINE_END, split_lines
from workbench.errors import CardError

PLACEHOLDER = re.compile(r"""(?<=["'])(?:sentence_transformers|\w+_encoder|pylate)_model_id(?=["'])|\{MODEL_NAME\}""")
"""What the library writes until a model is pushed; the latter before 3.0."""
HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
HEAD = ("Similarity Function", "Output Dimensionality", "Maximum Sequence Length", "Base model", "Model Type")
"""Bullets of Model Description, of which a new one follows the first that the card has."""
_ENDS = ("\n", "\r\n", "\r\r\n", "\r")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Change:
    """Lines of the card that are replaced, or lines that follow one."""

    code: str  # of the finding that it answers
    reason: str  # one sentence
    replaced: Mapping[int, str]  # 1-based line -> its new text
    after: int | None = None  # 1-based line that `added` follows
    added: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[int, ...]:
        return tuple(sorted({*self.replaced, *([self.after] if self.after is not None else [])}))


def corrections(card: Card, model: str | None = None) -> list[Change]:
    """What is certain to be wrong or missing on `card`; `model` is the Hub id of the model that it describes.

    Raises CardError where `model` cannot be an id.
    """
    if model is not None and not HUB_ID.fullmatch(model):
        raise CardError(f"expected the id of a model on the Hub (owner/name), found {model!r}.")
    restored = _restored(card)
    lines = {**dict(enumerate(card.lines, 1)), **({} if restored.replaced else card.text.original)}
    found = [restored, *([_named(lines, model)] if model is not None else []), *_added(card)]
    return [change for change in found if change.replaced or change.added]


def _restored(card: Card) -> Change:
    """The characters that were decoded wrongly.

    Only where no other character beyond ASCII is whole. Otherwise the card's file was decoded well, and what looks
    damaged is in the rows that it quotes, which are as they are.
    """
    repaired = {number: card.lines[number - 1] for number in card.text.repaired_lines}
    whole = any(not line.isascii() for number, line in enumerate(card.lines, 1) if number not in repaired)
    count = f"{card.text.repaired:,} character{'s' * (card.text.repaired != 1)}"
    return Change("text-damaged", f"Restores {count} that were decoded wrongly.", {} if whole else repaired)


def _named(lines: Mapping[int, str], model: str) -> Change:
    """The model's own id in place of the placeholder."""
    new = {number: PLACEHOLDER.sub(model, line) for number, line in lines.items()}
    changed = {number: line for number, line in new.items() if line != lines[number]}
    return Change("model-id", f"Names {model} where the library left a placeholder.", changed)


def _added(card: Card) -> Iterator[Change]:
    """Bullets for what only the files beside the card say."""
    bullets = (card.description[name] for name in HEAD if name in card.description)
    line = next((stated.line for stated in bullets if stated.source == "README.md"), None)
    if line is None or not card.lines[line - 1].startswith("- **"):
        return
    if any(hidden_adapter(card)) and "Adapter" not in card.description:
        name, config = lookup.lora_config(card) or ("", {})
        text = _adapter(config)
        yield Change("hidden-adapter", f"States the adapter of {name}.", {}, line, (text,) if text else ())
    if any(hidden_prompts(card)) and "Prompts" not in card.description:
        name, config = lookup.file_beside(card, "config_sentence_transformers.json") or ("", {})
        prompts = [
            f"`{key}`: `{json.dumps(text, ensure_ascii=False)}`" for key, text in config["prompts"].items() if text
        ]
        added = () if any(each.count("`") != 4 for each in prompts) else (f"- **Prompts:** {', '.join(prompts)}",)
        yield Change("hidden-prompts", f"States the prompts of {name}.", {}, line, added)


def _adapter(config: Mapping[str, object]) -> str:
    """A bullet with kind and shape of the adapter; empty where its file does not say them."""
    shape = lookup.lora_shape(config)
    targets = [name for name in shape.get("target_modules", ()) if re.fullmatch(r"[\w.]+", name)]
    if config.get("peft_type") != "LORA" or not {"r", "alpha"} <= set(shape) or not targets:
        return ""
    kind = "DoRA" if shape.get("use_dora") else "LoRA"
    return (
        f"- **Adapter:** {kind}, r {shape['r']}, alpha {shape['alpha']:g}, on {some([f'`{name}`' for name in targets])}"
    )


def original(card: Card, data: bytes | None = None) -> tuple[str, str]:
    """The text of the card's file as it was read, and the file's encoding.

    Without `data`, the file's bytes, they are made again from the lines, which the card's SHA-256 confirms.

    Raises CardError where the text cannot be changed safely: characters are lost, the file is no UTF-8 or Windows-1252,
    or its line ends are mixed and `data` is not given.
    """
    if card.text.lost:
        numbers = some(card.text.lost_lines, 4)
        raise CardError(
            f"expected the whole text of the card {card.name!r}, found {card.text.lost:,} lost characters (lines "
            f"{numbers}); take the README.md from the model's own repository."
        )
    lines = [card.text.original.get(number, line) for number, line in enumerate(card.lines, 1)]
    encodings = ("utf-8-sig", "utf-8", "cp1252")
    if data is None:
        tried = ((end.join(lines), encoding) for encoding in encodings for end in _ENDS)
        found = next((each for each in tried if _sha256(*each) == card.sha256), None)
    else:
        known = ((_decode(data, encoding), encoding) for encoding in encodings)
        found = next(((text, name) for text, name in known if text is not None and split_lines(text) == lines), None)
    if found is None:
        raise CardError(
            f"expected the file of the card {card.name!r} in UTF-8 with one kind of line end, found another; name the "
            "file itself, or save it as UTF-8."
        )
    return found


def _sha256(text: str, encoding: str) -> str | None:
    try:
        return hashlib.sha256(text.encode(encoding)).hexdigest()
    except UnicodeEncodeError:
        return None


def _decode(data: bytes, encoding: str) -> str | None:
    if data.startswith(_BOM) != (encoding == "utf-8-sig"):
        return None
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def corrected(text: str, changes: Sequence[Change]) -> str:
    r"""`text` with the changes; a new line has the line end of the line that it follows.

    >>> corrected("a\r\nb\r\n", [Change("", "", {2: "c"}, 1, ("new",))])
    'a\r\nnew\r\nc\r\n'
    """
    ends = [*(found[0] for found in LINE_END.finditer(text)), ""]
    lines = split_lines(text)
    for change in changes:
        for number, new in change.replaced.items():
            lines[number - 1] = new
    for change in changes:
        if change.after is not None:
            end = ends[change.after - 1] or ends[0] or "\n"
            lines[change.after - 1] = end.join([lines[change.after - 1], *change.added])
    return "".join(line + end for line, end in zip(lines, ends, strict=True))


def diff(before: bytes, after: bytes, name: str = "README.md") -> bytes:
    r"""A unified diff that `patch -p1` and `git apply` take; empty where nothing changed.

    >>> print(diff(b"a\n", b"b").decode())
    --- a/README.md
    +++ b/README.md
    @@ -1 +1 @@
    -a
    +b
    \ No newline at end of file
    <BLANKLINE>
    """
    old, new = (re.findall(rb"[^\n]*\n|[^\n]+", data) for data in (before, after))
    lines = difflib.diff_bytes(difflib.unified_diff, old, new, f"a/{name}".encode(), f"b/{name}".encode())
    return b"".join(line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n" for line in lines)
