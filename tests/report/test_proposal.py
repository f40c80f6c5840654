"""Corrections of a card as a diff, and proposing them on the Hub, against a stand-in of its API on the loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from in_process import workbench
from synthetic_run import made_run

from workbench.cards.card_json import card_to_dict
from workbench.cards.read import parse_card, read_card
from workbench.errors import CardError, RunError
from workbench.report.corrections import diff
from workbench.report.proposal import eval_results, propose
from workbench.run import Run, write_json

MODEL, COMMIT, SECRET = "acme/tuned", "0123456789abcdef0123456789abcdef01234567", "hf_secret"
TEXT = """---
library_name: sentence-transformers
---
# SentenceTransformer based on acme/base

## Model Details

### Model Description

- **Model Type:** Sentence Transformer
- **Base model:** [acme/base](https://huggingface.co/acme/base)
- **Maximum Sequence Length:** 128 tokens

### Full Model Architecture

```
SentenceTransformer(
  (0): Transformer({'max_seq_length': 128, 'do_lower_case': False}) with Transformer model: BertModel
)
```

```python
# Download from the 🤗 Hub
model = SentenceTransformer("sentence_transformers_model_id")
```

## Evaluation

### Metrics

#### Information Retrieval

* Dataset: `finetune`
* Evaluated with [<code>InformationRetrievalEvaluator</code>](https://sbert.net/x)

| Metric             | Value      |
|:-------------------|:-----------|
| cosine_accuracy@1  | 0.7172     |
| **cosine_ndcg@10** | **0.7572** |

## Training Details

### Training Dataset

#### Unnamed Dataset

* Size: 300 training samples
* Columns: <code>anchor</code> and <code>positive</code>
* Loss: [<code>MultipleNegativesRankingLoss</code>](https://sbert.net/x) with these parameters:
  ```json
  {
      "scale": 0.05,
      "similarity_fct": "cos_sim"
  }
  ```

### Training Hyperparameters
#### Non-Default Hyperparameters

- `per_device_train_batch_size`: 4
"""
ADAPTER = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}
ADAPTER |= {"base_model_name_or_path": "acme/base"}


def card_of(text: str = TEXT, encoding: str = "utf-8", **beside: Any) -> tuple[Any, bytes]:
    data = text.encode(encoding)
    files = {f"{name}.json": json.dumps(content).encode() for name, content in beside.items()}
    return parse_card(data, name="tuned", beside=files), data


def apply(tool: list[str], folder: Path, before: bytes, change: bytes) -> bytes:
    """README.md after git or patch applied the diff to it."""
    (folder / "README.md").write_bytes(before)
    (folder / "change.diff").write_bytes(change)
    subprocess.run([*tool, "change.diff"], cwd=folder, check=True, capture_output=True)
    return (folder / "README.md").read_bytes()


TOOLS = {"git": ["git", "apply"], "patch": ["patch", "-p1", "--binary", "-i"]}


class TestText:
    @pytest.mark.parametrize("tool", TOOLS)
    @pytest.mark.parametrize(
        ("text", "encoding"),
        [
            (TEXT, "utf-8"),
            (TEXT.replace("\n", "\r\n"), "utf-8-sig"),
            (TEXT[: TEXT.index("\n```\n\n## Evaluation")], "utf-8"),
            (TEXT.replace("\n", "\r\r\n"), "utf-8"),
            (TEXT.replace("🤗", "é").replace("tokens\n", "tokens\r\n"), "cp1252"),
        ],
        ids=["plain", "BOM and CR LF", "no last line end", "CR CR LF", "mixed, Windows-1252"],
    )
    def test_the_diff_applies_and_keeps_the_form_of_the_file(
        self, tmp_path: Path, text: str, encoding: str, tool: str
    ) -> None:
        card, data = card_of(text, encoding, adapter_config=ADAPTER)
        made = propose(card, data, model=MODEL)
        assert [change.code for change in made.changes] == ["model-id", "hidden-adapter"]
        assert made.before == data
        assert apply(TOOLS[tool], tmp_path, data, made.diff) == made.after
        bullet = "- **Maximum Sequence Length:** 128 tokens"
        end = text.partition(bullet)[2].partition("\n")[0] + "\n"
        wanted = text.replace("sentence_transformers_model_id", MODEL).replace(
            bullet, f"{bullet}{end}- **Adapter:** LoRA, r 8, alpha 16, on `query` and `value`"
        )
        assert made.after == wanted.encode(encoding)

    def test_without_the_file_the_text_is_made_again_and_confirmed_by_its_hash(self) -> None:
        card, data = card_of(TEXT.replace("\n", "\r\n"), "utf-8-sig")
        assert propose(card).before == data
        mixed, data = card_of(TEXT + "\r\nend\n")
        assert propose(mixed, data).before == data
        with pytest.raises(CardError, match="one kind of line end, found another; name the file itself"):
            propose(mixed)

    def test_the_record_of_the_training_stays_as_it_is(self) -> None:
        """The scale is a mistake, and it is what ran: a finding for the author, with its correction."""
        made = propose(card_of()[0])
        assert (made.diff, made.changes) == (b"", ())
        assert "scale-as-temperature" in {found.code for found in made.findings}
        assert "Scale the similarities by 20" in made.description()

    def test_prompts_beside_the_card_are_stated(self) -> None:
        prompts = {"prompts": {"query": "search: ", "document": ""}}
        made = propose(card_of(config_sentence_transformers=prompts)[0])
        assert b'\n+- **Prompts:** `query`: `"search: "`\n' in made.diff
        ticks = {"prompts": {"query": "a `b` "}}
        assert propose(card_of(config_sentence_transformers=ticks)[0]).diff == b""

    def test_a_new_bullet_is_read_as_one_and_is_not_proposed_again(self) -> None:
        card, data = card_of(adapter_config=ADAPTER)
        again, _ = card_of(propose(card, data).after.decode(), adapter_config=ADAPTER)
        assert again.description["Adapter"].value == "LoRA, r 8, alpha 16, on `query` and `value`"
        assert propose(again).diff == b""

    def test_a_wrong_decoding_is_undone_where_the_whole_file_has_it(self) -> None:
        damaged = TEXT.encode().decode("cp1252")
        assert propose(card_of(damaged)[0]).after == TEXT.encode()
        quoted = TEXT + "\n| <code>30Â°C, 31Â°C, 32Â°C</code> |\n"  # rows have what they have; the emoji is whole
        made = propose(card_of(quoted)[0])
        assert made.diff == b""
        assert "text-damaged" in {found.code for found in made.findings}

    def test_a_card_with_lost_characters_is_refused(self) -> None:
        with pytest.raises(CardError, match=r"expected the whole text of the card 'tuned', found 3 lost characters"):
            propose(card_of(TEXT + "\ufffd\ufffd\ufffd")[0])

    def test_what_the_card_says_to_ignore_is_ignored(self) -> None:
        card, _ = card_of(TEXT + "<!-- workbench: ignore hidden-adapter, dataset-unnamed -->\n", adapter_config=ADAPTER)
        made = propose(card)
        assert made.diff == b""
        assert "dataset-unnamed" not in made.description()

    def test_text_of_the_card_does_not_act_in_the_description(self) -> None:
        hostile = TEXT.replace("Unnamed Dataset", "json").replace("finetune", "<img src=x> @everyone [x](y)")
        assert "<img" not in propose(card_of(hostile)[0]).description()

    def test_nothing_is_no_diff(self) -> None:
        assert diff(b"a\n", b"a\n") == b""

    def test_the_clean_cards_and_the_damaged_ones(self, shared: Path) -> None:
        """Undoing the damage of a seed gives the text of the clean card, character by character."""
        for name in ("gooaq-static-matryoshka", "hotpotqa-distilbert-energy", "porsche-mxbai", "sinhala-xlmr-cosine"):
            seed, clean = (shared / "cards" / folder / f"{name}.md" for folder in ("seeds", "seeds-clean"))
            assert propose(read_card(seed), seed.read_bytes()).after == clean.read_bytes(), name


def run_of(root: Path, verdict: str = "differs", **options: Any) -> Run:
    run = made_run(root, stand_in=options.pop("stand_in", False), verdict=verdict, **options)
    write_json(run.file("card"), card_to_dict(card_of()[0]))
    return run


class TestRun:
    def test_numbers_of_published_weights_are_not_called_trained_again(self, tmp_path: Path) -> None:
        run = run_of(tmp_path)
        write_json(run.file("record"), {**run.record, "variant": "published weights"})
        added = propose(run.card(), run=run).diff.decode()
        assert "+## Measured by Card Workbench" in added
        assert "+The published weights were measured as this card says." in added
        assert "rained again" not in added

    def test_numbers_that_differ_are_added_beside_the_cards(self, tmp_path: Path) -> None:
        run = run_of(tmp_path, seeds=(42, 43))
        stored = json.loads(run.file("comparison").read_text())
        stored["rows"][0]["verdict"] = "reproduced"
        write_json(run.file("comparison"), stored)
        card = run.card()
        made = propose(card, run=run)
        assert [change.code for change in made.changes] == ["measured"]
        added = [line[1:] for line in made.diff.decode().splitlines() if line[:1] == "+" and line[:3] != "+++"]
        assert "## Trained again by Card Workbench" in added
        assert "(seeds 42, 43). Of the 6 metrics that could be compared, 5 differ from the card:" in "\n".join(added)
        assert not any("Accuracy@1 " in line for line in added)
        assert not [line for line in made.diff.decode().splitlines() if line[:1] == "-" and line[:3] != "---"]
        again = parse_card(made.after, name="tuned")
        assert [part.metrics for part in again.evaluations] == [part.metrics for part in card.evaluations]
        assert "differs" in made.description()

    @pytest.mark.parametrize(
        ("verdict", "stand_in", "described"),
        [
            ("reproduced", False, True),
            ("cannot tell", False, True),
            ("not comparable", False, False),
            ("differs", True, False),
        ],
    )
    def test_other_verdicts_change_nothing(self, tmp_path: Path, verdict: str, stand_in: bool, described: bool) -> None:
        run = run_of(tmp_path, verdict, stand_in=stand_in)
        made = propose(run.card(), run=run)
        assert made.diff == b""
        assert (verdict in made.measured) is described
        said = "the run's numbers are not proposed" in workbench("propose", run.path).stderr
        assert said is not described

    def test_the_main_metric_is_an_entry_of_eval_results(self, tmp_path: Path) -> None:
        from huggingface_hub import parse_eval_result_entries

        run = run_of(tmp_path)
        with pytest.raises(RunError, match="expected the Hub id of the benchmark that 'finetune' is, found none"):
            eval_results(run, None)
        (entry,) = parse_eval_result_entries(yaml.safe_load(eval_results(run, "acme/benchmark", "retrieval")))
        assert (entry.dataset_id, entry.task_id, entry.date) == ("acme/benchmark", "retrieval", "2026-11-20")
        assert entry.value == round(run.metrics("finetune", "after")["cosine_ndcg@10"], 6)
        assert entry.notes is not None
        assert entry.notes.startswith("nDCG@10, trained again from the card (as written)")

    def test_a_stand_in_is_no_result(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="expected a run on its own base and rows, found a stand-in"):
            eval_results(run_of(tmp_path, stand_in=True), "acme/benchmark")


@dataclass
class Hub:
    """A stand-in of the Hub: answers for one model, and remembers what it was asked."""

    readme: bytes
    asked: list[tuple[str, str, Any]] = field(default_factory=list)  # (method, path, JSON lines of the body)
    refuses: bool = False
    address: str = ""

    def posts(self) -> list[str]:
        return [path for method, path, _ in self.asked if method == "POST"]

    def answer(self, path: str) -> dict[str, Any]:
        if path == "/api/validate-yaml":
            return {"warnings": [], "errors": []}
        if "/preupload/" in path:
            return {"files": [{"path": "README.md", "uploadMode": "regular", "shouldIgnore": False}]}
        if "/commit/" in path:
            opened = f"{self.address}/{MODEL}/discussions/7"
            return {
                "commitUrl": f"{self.address}/{MODEL}/commit/{COMMIT}",
                "commitOid": COMMIT,
                "pullRequestUrl": opened,
            }
        if "/discussions" in path:
            repo = {"name": MODEL, "type": "model"}
            return {"num": 7, "title": "x", "createdAt": "2026-11-20T10:00:00.000Z", "status": "open", "repo": repo,
                    "isPullRequest": False, "events": []}  # fmt: skip
        return {"id": MODEL, "sha": COMMIT, "siblings": [], "tags": [], "downloads": 0, "likes": 0}


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub(TEXT.encode())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            made.asked.append((self.command, self.path, [json.loads(line) for line in data.splitlines()]))
            if made.refuses or self.headers["Authorization"] != f"Bearer {SECRET}":
                self.send_error(403)
                return
            body = made.readme if "/resolve/" in self.path else json.dumps(made.answer(self.path)).encode()
            self.send_response(200)
            for name, value in {
                "Content-Length": len(body), "X-Repo-Commit": COMMIT, "ETag": hashlib.sha1(body).hexdigest(),
                "Content-Type": "application/json",
            }.items():  # fmt: skip
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def propose_to(hub: Hub, tmp_path: Path) -> Any:
    """`workbench propose README.md WORDS` with the stand-in as the Hub, in a process of its own."""
    (tmp_path / "README.md").write_bytes(hub.readme)

    def call(
        *words: str, token: str | None = SECRET, endpoint: str = "", terminal: int = subprocess.DEVNULL
    ) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        kept |= {"HF_ENDPOINT": endpoint or hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        environment = kept | ({"HF_TOKEN": token} if token else {})
        command = [sys.executable, "-m", "workbench", "propose", str(tmp_path), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, stdin=terminal, check=False)

    return call


class TestHub:
    def test_without_the_flag_nothing_is_asked(self, hub: Hub, propose_to: Any, tmp_path: Path) -> None:
        done = propose_to("--model", MODEL, "--description", str(tmp_path / "text.md"))
        assert done.returncode == 0, done.stderr
        assert "+model = SentenceTransformer" in done.stdout
        assert "scale-as-temperature" in (tmp_path / "text.md").read_text()
        assert hub.asked == []

    def test_changes_open_a_pull_request(self, hub: Hub, propose_to: Any) -> None:
        done = propose_to("--model", MODEL, "--discussion", "--yes")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"{hub.address}/{MODEL}/discussions/7\n")
        assert hub.posts() == [
            "/api/validate-yaml", f"/api/models/{MODEL}/preupload/main?create_pr=1",
            f"/api/models/{MODEL}/commit/main?create_pr=1",
        ]  # fmt: skip
        header, file = hub.asked[-1][2]
        assert header["value"]["parentCommit"] == COMMIT
        assert header["value"]["summary"].startswith("Model card: 1 change and ")
        assert "scale-as-temperature" in header["value"]["description"]
        assert file["value"]["path"] == "README.md"
        assert (
            base64.b64decode(file["value"]["content"]) == TEXT.replace("sentence_transformers_model_id", MODEL).encode()
        )

    def test_findings_alone_open_a_discussion(self, hub: Hub, propose_to: Any, tmp_path: Path) -> None:
        hub.readme = TEXT.replace("sentence_transformers_model_id", MODEL).encode()
        (tmp_path / "README.md").write_bytes(hub.readme)
        done = propose_to("--model", MODEL, "--discussion", "--yes")
        assert done.returncode == 0, done.stderr
        assert hub.posts() == [f"/api/models/{MODEL}/discussions"]
        ((posted,),) = [body for method, _, body in hub.asked if method == "POST"]
        assert posted["pullRequest"] is False
        assert "scale-as-temperature" in posted["description"]

    @pytest.mark.parametrize(
        ("words", "token", "said"),
        [
            (("--model", MODEL, "--yes"), None, "expected a token of the Hub, found none; run `hf auth login`, or set"),
            (("--yes",), SECRET, "expected the card's model on the Hub, found no id; name it with --model OWNER/NAME."),
            (("--model", MODEL), SECRET, "expected a terminal to ask on before --discussion opens anything"),
            (("--model", MODEL, "--yes"), "hf_other", f"expected the model '{MODEL}' on the Hub, found that it cannot"),
        ],
        ids=["no token", "no model", "no terminal", "another's token"],
    )
    def test_what_is_missing_is_a_sentence(
        self, hub: Hub, propose_to: Any, words: tuple[str, ...], token: str | None, said: str
    ) -> None:
        done = propose_to("--discussion", *words, token=token)
        assert done.returncode == 2
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("workbench: "))
        assert said in line
        assert SECRET not in done.stderr
        assert hub.posts() == []

    @pytest.mark.parametrize(("answer", "opened"), [(b"n\n", 0), (b"y\n", 3)])
    def test_a_terminal_is_asked(self, hub: Hub, propose_to: Any, answer: bytes, opened: int) -> None:
        ours, theirs = os.openpty()
        os.write(ours, answer)
        done = propose_to("--model", MODEL, "--discussion", terminal=theirs)
        os.close(ours)
        os.close(theirs)
        assert (done.returncode, len(hub.posts())) == (0 if opened else 1, opened), done.stderr
        assert f"Open this pull request in {MODEL}, for everyone to read?" in done.stderr
        assert "scale-as-temperature" in done.stderr

    def test_another_text_on_the_hub_is_not_overwritten(self, hub: Hub, propose_to: Any, tmp_path: Path) -> None:
        hub.readme += b"\nA new section.\n"
        done = propose_to("--model", MODEL, "--discussion", "--yes")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == (
            f"workbench: expected the card {tmp_path.name!r} in '{MODEL}' on the Hub, found another text there; "
            f"propose {MODEL} itself, or fetch its README.md."
        )
        assert hub.posts() == []

    def test_no_network_is_a_sentence(self, hub: Hub, propose_to: Any) -> None:
        done = propose_to("--model", MODEL, "--discussion", "--yes", endpoint="http://127.0.0.1:9")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert f"expected the model '{MODEL}' on the Hub, found that it cannot be reached or refuses" in done.stderr


class TestCommand:
    def test_a_card_without_a_change_says_so(self) -> None:
        done = workbench("propose", "sinhala-xlmr-cosine")
        assert (done.returncode, done.stdout) == (0, "")
        assert "nothing to change in the text of sinhala-xlmr-cosine" in done.stderr

    def test_a_card_needs_no_heavy_library(self, tmp_path: Path) -> None:
        code = "import sys\nfrom workbench.cli import app\nsys.argv = ['workbench', 'propose', 'porsche-mxbai']\n"
        code += "try: app()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "+- **Adapter:** DoRA" in done.stdout
        assert {"torch", "numpy", "pandas", "plotly", "huggingface_hub"} & set(done.stderr.split()) == set()

    def test_a_run_is_named_as_everywhere(self, tmp_path: Path) -> None:
        run = run_of(tmp_path / "runs")
        for words in ((run.path,), (run.name, "--runs", tmp_path / "runs"), ("latest", "--runs", tmp_path / "runs")):
            done = workbench("propose", *words, "--out", tmp_path / "a.diff")
            assert done.returncode == 0, done.stderr
            assert "Trained again" in (tmp_path / "a.diff").read_text()

    def test_eval_results_are_written_for_a_run_only(self, tmp_path: Path) -> None:
        run, file = run_of(tmp_path / "runs"), tmp_path / "bench.yaml"
        done = workbench(
            "propose", run.path, "--eval-results", file, "--dataset", "acme/bench", "--out", tmp_path / "d"
        )
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load(file.read_text())[0]["dataset"] == {"id": "acme/bench", "task_id": "default"}
        refused = workbench("propose", "porsche-mxbai", "--eval-results", file)
        assert refused.returncode == 2
        assert refused.stderr == (
            "workbench: expected a run for --eval-results, found the card 'porsche-mxbai'; name a run.\n"
        )
