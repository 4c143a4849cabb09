"""Writes data sets as `hf download --local-dir` leaves them: the repository's files, and what was fetched of it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

Rows = Sequence[Mapping[str, Any]]


@dataclass
class Repository:
    """A data set's or a model's folder.

    Attributes:
        folder: Where it stands in the mirror.
        revision: The commit that it is a copy of.
        configs: Configuration -> split -> file, as the front matter of README.md will name them.
    """

    folder: Path
    revision: str
    configs: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, config: str, split: str, rows: Rows) -> None:
        """Add one split of a configuration as parquet, where `push_to_hub` puts it."""
        name = f"{config}/{split}-00000-of-00001.parquet"
        self.write(name, rows)
        self.configs.setdefault(config, {})[split] = name

    def write(self, name: str, rows: Rows) -> None:
        """Write rows as .parquet or .jsonl, by the name's ending."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        else:
            pq.write_table(pa.Table.from_pylist(list(rows)), path)

    def finish(self) -> None:
        """Write README.md and the metadata of every file."""
        listed = [
            {"config_name": config, "data_files": [{"split": split, "path": path} for split, path in splits.items()]}
            for config, splits in self.configs.items()
        ]
        front = yaml.safe_dump({"license": "mit", **({"configs": listed} if listed else {})}, sort_keys=False)
        (self.folder / "README.md").write_text(f"---\n{front}---\n# A miniature\n", encoding="utf-8")
        self.note_downloads()

    def note_downloads(self) -> None:
        """Write `.cache/huggingface/download/FILE.metadata` for each file: commit, etag, time."""
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder)
            if path.is_dir() or name.parts[0] == ".cache":
                continue
            note = self.folder / ".cache" / "huggingface" / "download" / f"{name}.metadata"
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(f"{self.revision}\n{etag(path)}\n{time.time()}\n")


def etag(path: Path) -> str:
    """Return what the hub answers as a file's etag: SHA-256 of large files, git's own hash of the others."""
    content = path.read_bytes()
    if path.suffix in {".parquet", ".safetensors"}:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()  # noqa: S324 - git's own
