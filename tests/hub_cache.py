"""Datasets in the local cache as `datasets` leaves them there after a download, made without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


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
