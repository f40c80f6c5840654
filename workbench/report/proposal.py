"""A card or a run -> a proposal for the model's repository on the Hub: corrected text, title, and description.

Nothing is sent by making one. `open_proposal` alone writes to the Hub: a pull request where text changes, a discussion
where only the author can decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import yaml

from workbench.audit.finding import Finding, line_ranges
from workbench.audit.rules import audit
from workbench.audit.selection import ignored_by
from workbench.cards.metric_names import metric_name
from workbench.errors import CardError, RunError, WorkbenchError, check_installed, first_line
from workbench.report.corrections import Change, corrected, corrections, diff, original
from workbench.views.theme import escape

if TYPE_CHECKING:
    from workbench.cards.card import Card
    from workbench.run import Run
    from workbench.views.summary import Summary

SECONDS = 4.0  # until the Hub has to answer
HOME = "https://pypi.org/project/card-workbench/"
PUBLISHED = "published weights"  # the variant of a verification
VERIFIED = ("reproduced exactly", "reproduced", "differs", "cannot tell")


@dataclass(frozen=True)
class Proposal:
    """What could be sent to the repository of a model."""

    card: str  # short name
    sha256: str  # of the card's file
    before: bytes  # that file
    after: bytes  # with the changes
    changes: tuple[Change, ...]
    findings: tuple[Finding, ...]  # that no change answers
    measured: str = ""  # the verdict of a run in Markdown

    @property
    def diff(self) -> bytes:
        """A unified diff of README.md; empty where nothing changes."""
        return diff(self.before, self.after)

    @property
    def title(self) -> str:
        parts = [
            f"{len(list_)} {word}{'s' * (len(list_) != 1)}"
            for word, list_ in (("change", self.changes), ("finding", self.findings))
            if list_
        ]
        return f"Model card: {' and '.join(parts)}" if parts else "Model card: numbers verified"

    def __bool__(self) -> bool:
        return bool(self.changes or self.findings or self.measured)

    def description(self) -> str:
        """The text of the pull request or discussion, in Markdown; text of the card is escaped."""
        parts = [f"[Card Workbench]({HOME}) read this model card.", self.measured]
        if self.changes:
            parts += ["### Changes to README.md", "\n".join(map(_change_line, self.changes))]
        if self.findings:
            parts += [
                "### Findings that only the author can answer",
                "No text is changed for these. Line numbers are those of the README.md before any change; "
                "`workbench explain CODE` says what a code means.",
                "\n".join(map(_finding_line, self.findings)),
            ]
        return "\n\n".join(part for part in parts if part) + "\n"


def _change_line(change: Change) -> str:
    where = f" (`{change.code}`, line{'s' * (len(change.lines) > 1)} {line_ranges(change.lines, most=12)})"
    return f"- {escape(change.reason)}{where}"


def _finding_line(found: Finding) -> str:
    where = f", line{'s' * (len(found.lines) > 1)} {line_ranges(found.lines, most=12)}" if found.lines else ""
    fix = f" For another training: {escape(found.fix.sentence)}" if found.fix is not None else ""
    return f"- **{found.severity}** `{found.code}`{where}: {escape(found.message)}{fix}"


def propose(card: Card, data: bytes | None = None, *, model: str | None = None, run: Run | None = None) -> Proposal:
    """What to propose for `card`: see `corrections`, and for a `run` of it what was measured.

    `data` are the bytes of the card's file, `model` is its id on the Hub. A run's numbers are added to the card where
    they differ from it, and described where it is comparable at all; see `evaluation.verdict`.

    Raises CardError where the text cannot be changed safely (see `original`).
    """
    text, encoding = original(card, data)
    ignored = ignored_by(card)
    changes = [change for change in corrections(card, model) if change.code not in ignored]
    summary = None if run is None else _comparable(run)
    if summary is not None and summary.verdict.word == "differs":
        changes += _measured_section(summary, card)
    answered = {change.code for change in changes} | ignored
    return Proposal(
        card.name,
        card.sha256,
        text.encode(encoding),
        corrected(text, changes).encode(encoding),
        tuple(changes),
        tuple(found for found in audit(card) if found.code not in answered),
        "" if summary is None else _measured_text(summary),
    )


def _comparable(run: Run) -> Summary | None:
    """The summary of a run whose numbers say something about its card: of the published weights, or trained as written,
    without stand-ins."""
    from workbench.views.summary import summarize

    summary = summarize(run)
    fits = summary.variant in ("as written", PUBLISHED) and not summary.stand_ins and summary.verdict.word in VERIFIED
    return summary if fits else None


def _measured_text(summary: Summary) -> str:
    from workbench.report.markdown import markdown

    return markdown(replace(summary, findings=None)).strip()


def _measured_section(summary: Summary, card: Card) -> list[Change]:
    """A section after the card's last table of metrics, with its numbers beside those of the run that differ.

    It is one of its own, because who reads the card takes tables below its Evaluation for the card's numbers.
    """
    from workbench.report.markdown import card_table

    stated = [row for row in summary.metrics if row.card is not None and row.after is not None]
    differ = [row for row in stated if row.verdict == "differs"]
    last = max((part.lines[1] for part in card.evaluations if part.lines is not None), default=None)
    if not differ or last is None:
        return []
    seeds = f"seed{'s' * (len(summary.seeds) != 1)} {', '.join(map(str, summary.seeds)) or 'unknown'}"
    title, done = "Trained again by Card Workbench", f"The recipe of this card was trained again ({seeds})."
    reason = "Adds the numbers that training by this card's recipe gave, which differ from the card's."
    if summary.variant == PUBLISHED:
        title, done = "Measured by Card Workbench", "The published weights were measured as this card says."
        reason = "Adds the numbers of the published weights, which differ from the card's."
    lines = [
        "",
        f"## {title}",
        "",
        f"{done} Of the {len(stated)} metrics that could be compared, {len(differ)} "
        f"{'differ' if len(differ) > 1 else 'differs'} from the card:",
        "",
        *card_table(differ, summary.main_metric, summary.seeds, before=False),
    ]
    return [Change("measured", reason, {}, last, tuple(lines))]


def eval_results(run: Run, dataset: str | None, task: str = "default", evaluation: str | None = None) -> str:
    """The main metric of a run after training as YAML for `.eval_results/` in the repository of its model.

    One entry, because a benchmark has one value for each task. `dataset` is the Hub id of what was measured on,
    which a run does not know, and `task` the benchmark's name of the task.

    Raises RunError where the run has no evaluation or used a stand-in, or without a dataset.
    """
    check_installed("huggingface_hub")
    import huggingface_hub

    if not hasattr(huggingface_hub, "EvalResultEntry"):
        raise WorkbenchError(
            f"expected a huggingface_hub with EvalResultEntry, found {huggingface_hub.__version__}; "
            "pip install --upgrade huggingface_hub."
        )
    from workbench.evaluation.card_evaluation import evaluation_name

    recipe = run.trained_recipe()
    name = evaluation_name(run, recipe, evaluation)
    if name is None:
        raise RunError(f"expected an evaluation after training in run {run.name!r}, found none; finish its training.")
    if run.stand_ins:
        raise RunError(f"expected a run on its own base and rows, found a stand-in: {run.stand_ins[0]}.")
    if dataset is None:
        raise RunError(
            f"expected the Hub id of the benchmark that {name!r} is, found none; name it with --dataset OWNER/NAME."
        )
    metrics, metric = run.metrics(name, "after"), recipe.evaluation.main_metric
    if metric not in metrics:
        metric = next(iter(metrics))
    before = run.metrics(name, "before").get(metric) if "before" in run.evaluations()[name] else None
    base = "" if before is None else f"; {before:.4f} before training"
    how = f"trained again from the card ({recipe.variant})"
    how = "published weights, measured" if run.record.get("verification") is not None else how
    entry = huggingface_hub.EvalResultEntry(
        dataset_id=dataset,
        task_id=task,
        value=round(metrics[metric], 6),
        date=str(run.record.get("finished") or run.record.get("created") or "")[:10] or None,
        notes=f"{metric_name(metric)}, {how} by Card Workbench{base}",
    )
    listed = huggingface_hub.eval_result_entries_to_yaml([entry])
    return yaml.safe_dump(listed, sort_keys=False, allow_unicode=True, width=1000)


def current_commit(proposal: Proposal, model: str) -> str:
    """The commit of the model's repository on the Hub, whose README.md is the card of the proposal.

    Raises CardError where it is another text, because a pull request would undo what was changed since, and
    WorkbenchError without a token, network, or such a model.
    """
    token = _token()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of httpx, and of httpx2 since 2.0

    api = HfApi(token=token)
    try:
        commit = str(api.model_info(model, timeout=SECONDS).sha)
        with TemporaryDirectory() as folder:
            file = api.hf_hub_download(model, "README.md", revision=commit, local_dir=folder, etag_timeout=SECONDS)
            found = Path(file).read_bytes()
    except (HTTPError, OSError, ValueError) as error:
        raise _refused(model, error) from error
    if found != proposal.before:
        raise CardError(
            f"expected the card {proposal.card!r} in {model!r} on the Hub, found another text there; "
            f"propose {model} itself, or fetch its README.md."
        )
    return commit


def open_proposal(proposal: Proposal, model: str, commit: str) -> str:
    """Open the proposal on the Hub as a pull request, or as a discussion where no text changes; returns its address.

    `commit` is from `current_commit`. Raises WorkbenchError where the Hub refuses.
    """
    token = _token()
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    api = HfApi(token=token)
    try:
        if not proposal.changes:
            return api.create_discussion(model, proposal.title, description=proposal.description()).url
        made = api.create_commit(
            model,
            [CommitOperationAdd("README.md", proposal.after)],
            commit_message=proposal.title,
            commit_description=proposal.description(),
            create_pr=True,
            parent_commit=commit,
        )
    except (HTTPError, OSError, ValueError) as error:
        raise _refused(model, error) from error
    return made.pr_url or made.commit_url


def _token() -> str:
    check_installed("huggingface_hub")
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise WorkbenchError("expected a token of the Hub, found none; run `hf auth login`, or set HF_TOKEN.")
    return token


def _refused(model: str, error: Exception) -> WorkbenchError:
    return WorkbenchError(
        f"expected the model {model!r} on the Hub, found that it cannot be reached or refuses ({first_line(error)}); "
        "check its id, the token's permissions, and the network."
    )
