"""Models and datasets in the local caches as the Hub's clients leave them there after a download, made without one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached_model(cache: Path, folder: Path, identity: str, commit: str = COMMIT, reference: str = "main") -> None:
    """Put the model in `folder` into `cache` (HF_HUB_CACHE) as a Hub repository: blobs, references, links to blobs."""
    repository = cache / f"models--{identity.replace('/', '--')}"
    for part in ("blobs", "refs"):
        (repository / part).mkdir(parents=True, exist_ok=True)
    (repository / "refs" / reference).write_text(commit)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = repository / "snapshots" / commit / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def cached_dataset(
    cache: Path, identity: str, configs: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
) -> None:
    """Put a Hub dataset into `cache`: configuration -> split -> rows."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    organisation, name = identity.split("/")
    snake = datasets.naming.camelcase_to_snakecase(name)
    for config, splits in configs.items():
        folder = cache / f"{organisation}___{snake}" / config / "0.0.0" / ("0" * 40)
        folder.mkdir(parents=True)
        infos = datasets.splits.SplitDict(dataset_name=snake)
        for split, rows in splits.items():
            features = datasets.Dataset.from_list([dict(row) for row in rows]).features
            path = folder / f"{snake}-{split}.arrow"
            with ArrowWriter(path=str(path), features=features) as writer:
                for row in rows:
                    writer.write(dict(row))
                writer.finalize()
            infos.add(datasets.SplitInfo(split, num_examples=len(rows), num_bytes=path.stat().st_size))
        info = datasets.DatasetInfo(features=features, splits=infos, builder_name="parquet", config_name=config)
        info.dataset_name = snake
        info.version = datasets.Version("0.0.0")
        info.write_to_directory(str(folder))
