"""Candidates that somebody else found, in files: TREC runs, mteb's predictions, parquet, or a folder that was exported.

A path may hold `{task}`, `{subset}` and `{split}` where there is a file each.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rerank_eval.config.schema import RetrieverConfig
from rerank_eval.errors import ConfigError, DataError
from rerank_eval.files import at_home
from rerank_eval.names import did_you_mean, digest, slug
from rerank_eval.results.frames import read_frame
from rerank_eval.results.manifest import file_digest
from rerank_eval.results.runs import stem
from rerank_eval.results.trec import as_word, read_run

INDEX = "candidates.json"
"""Of an exported folder: what its files are; see `session.candidates`."""
SCHEMA = 1
_PLACES = ("task", "subset", "split")
_COLUMNS = ["query_id", "doc_id", "score"]
_PLACE = re.compile(r"\{(\w*)\}")

Ranking = Mapping[str, Mapping[str, float]]
"""query id -> document id -> score."""


@dataclass(frozen=True)
class GivenRun:
    """A file, or a pattern of files, that a config names as `retriever.run`.

    Attributes:
        pattern: The path, placeholders and all.
        where: Config key for error messages.
    """

    pattern: str
    where: str

    def __post_init__(self) -> None:
        """Check the placeholders.

        Raises:
            ConfigError: There is one of another name.
        """
        for name in _PLACE.findall(self.pattern):
            if name not in _PLACES:
                raise ConfigError(f"{self.where}: {{{name}}} stands for nothing; {did_you_mean(name, _PLACES)}")

    @property
    def label(self) -> str:
        """What tables call it: the file's name without endings and placeholders."""
        path = at_home(self.pattern)
        return _PLACE.sub("", stem(path, ".json")).strip(" ._-") or path.parent.name or "run"

    @property
    def source(self) -> str:
        """The path."""
        return self.pattern

    def revision(self) -> str:
        """Digest the bytes of every file that the pattern fits.

        Raises:
            ConfigError: There is none.
        """
        path = at_home(self.pattern)
        base = Path(path.anchor) if path.is_absolute() else Path()
        parts = [_PLACE.sub("*", part.replace("[", "[[]")) for part in path.parts[1 if path.is_absolute() else 0 :]]
        files = sorted(one for one in base.glob(str(Path(*parts))) if one.is_file())
        if not files:
            raise ConfigError(f"{self.where}: {self.pattern}: no such file")
        return digest([[one.name, file_digest(one)] for one in files])

    def file(self, task: str, subset: str, split: str) -> tuple[Path, str | None]:
        """Return a cell's file, and its SHA-256 where that is known beforehand."""
        names = {"task": slug(task), "subset": slug(subset), "split": slug(split)}
        return at_home(_PLACE.sub(lambda found: names[found[1]], self.pattern)), None

    @property
    def by_cell(self) -> bool:
        """Whether each cell has a file of its own."""
        return "{subset}" in self.pattern and "{split}" in self.pattern


@dataclass(frozen=True)
class Exported:
    """A folder that `rerank-eval candidates export` wrote, named as `retriever.candidates`.

    Attributes:
        folder: The folder.
        index: What its candidates.json says.
        where: Config key for error messages.
    """

    folder: Path
    index: Mapping[str, Any]
    where: str
    by_cell = True

    @classmethod
    def read(cls, name: str, where: str) -> Exported:
        """Read a folder's index.

        Raises:
            ConfigError: It is no such folder, or of a newer release.
        """
        folder = at_home(name)
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{where}: {name}: no {INDEX} there; name a folder that `rerank-eval candidates export` wrote, "
                "or auto, or retrieved"
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{where}: {folder / INDEX} cannot be read ({error})") from None
        sound = (
            isinstance(index, dict)
            and isinstance(index.get("tasks"), dict)
            and isinstance(index.get("retriever"), dict)
        )
        if not sound or index.get("schema") != SCHEMA:
            raise ConfigError(f"{where}: {folder / INDEX} is none that this release reads")
        return cls(folder, index, where)

    @property
    def label(self) -> str:
        """The retriever's name."""
        return str(self.index["retriever"].get("label") or self.folder.name)

    @property
    def source(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def depth(self) -> int:
        """Candidates of a query at the most."""
        return int(self.index["retriever"].get("top_k") or 0)

    def revision(self) -> str:
        """Digest what the index says of all files, which are held against it when they are read."""
        return digest(self.index["tasks"])

    def file(self, task: str, subset: str, split: str) -> tuple[Path, str | None]:
        """See `GivenRun.file`.

        Raises:
            DataError: The folder has nothing for the cell.
        """
        cells = self.index["tasks"].get(task, {}).get("cells", [])
        for cell in cells:
            if (cell.get("subset"), cell.get("split")) == (subset, split):
                return self.folder / slug(str(cell["file"])), str(cell["sha256"])
        have = ", ".join(self.index["tasks"]) if not cells else "others of this task"
        raise DataError(f"{self.where}: {self.folder} has no candidates for {task}, {subset}/{split}; it has {have}")


def given_of(config: RetrieverConfig, where: str) -> GivenRun | Exported:
    """Return the files that a config names."""
    if config.run is not None:
        return GivenRun(config.run, f"{where}.run")
    return Exported.read(config.candidates, f"{where}.candidates")


def read_candidates(path: Path, subset: str, split: str) -> pd.DataFrame:
    """Read one cell's candidates from a file.

    Args:
        path: A TREC run, mteb's predictions (`.json`) or parquet with query_id, doc_id, score; `.gz` too, but for
            parquet, which is compressed as it is.
        subset: The cell's, where the file tells several apart.
        split: The same.

    Returns:
        Columns query_id, doc_id (str), score (float64).

    Raises:
        DataError: It cannot be read, or a score is not finite; names file and reason.
    """
    kinds = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if kinds[-1:] == [".json"]:
        frame = _read_predictions(path, subset, split)
    elif kinds[-1:] == [".parquet"]:
        frame = _read_parquet(path, subset, split)
    else:
        return read_run(path)[_COLUMNS]
    bad = frame[~frame["score"].map(lambda score: abs(score) < float("inf"))]
    if len(bad):
        first = bad.iloc[0]
        raise DataError(f"{path}: query {first['query_id']!r}, document {first['doc_id']!r}: score {first['score']}")
    return frame


def _read_predictions(path: Path, subset: str, split: str) -> pd.DataFrame:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
        found = json.loads(data)[subset][split]
        rows = [
            (str(query), str(document), float(score))
            for query, documents in found.items()
            for document, score in documents.items()
        ]
    except FileNotFoundError:
        raise DataError(f"{path}: no such run") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: no predictions of mteb's for {subset}/{split} ({type(error).__name__}: {error}); they are "
            "subset -> split -> query -> document -> score"
        ) from None
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    return pd.DataFrame(rows, columns=_COLUMNS)


def _read_parquet(path: Path, subset: str, split: str) -> pd.DataFrame:
    try:
        frame = read_frame(path)
        if missing := set(_COLUMNS) - set(frame.columns):
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        for column, value in (("subset", subset), ("split", split)):
            if column in frame.columns:
                frame = frame[frame[column].astype(str) == value]
        frame = frame[_COLUMNS].astype({"query_id": str, "doc_id": str, "score": "float64"}).reset_index(drop=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such run") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if frame.duplicated(["query_id", "doc_id"]).any():
        first = frame[frame.duplicated(["query_id", "doc_id"])].iloc[0]
        raise DataError(f"{path}: document {first['doc_id']!r} stands twice for {first['query_id']!r}")
    return frame


def by_query(
    frame: pd.DataFrame, queries: list[str], documents: list[str], where: str
) -> tuple[dict[str, dict[str, float]], int]:
    """Hold a run against a cell's queries and corpus.

    A TREC run has no place for white space in an id; `%20` and the like stand for it, as in the runs written here.

    Args:
        frame: As `read_candidates` returns it.
        queries: Ids of the cell's queries.
        documents: Ids of its corpus.
        where: Names the file, for error messages.

    Returns:
        The run, of queries that are in the data; and how many of its queries are not.

    Raises:
        DataError: No query of it is in the data, or a document is not in the corpus.
    """
    known, corpus = ({as_word(one): one for one in ids if as_word(one) != one} for ids in (queries, documents))
    frame = frame.assign(
        query_id=frame["query_id"].map(lambda one: known.get(one, one)),
        doc_id=frame["doc_id"].map(lambda one: corpus.get(one, one)),
    )
    asked = frame["query_id"].isin(set(queries))
    others = frame.loc[~asked, "query_id"].nunique()
    frame = frame[asked]
    if not len(frame):
        raise DataError(
            f"{where}: none of its {others} queries is in the data; is it another task's, or another split's?"
        )
    absent = frame.loc[~frame["doc_id"].isin(set(documents)), ["query_id", "doc_id"]]
    if len(absent):
        first = absent.iloc[0]
        raise DataError(
            f"{where}: {absent['doc_id'].nunique()} documents are not in the corpus, such as {first['doc_id']!r} of "
            f"query {first['query_id']!r}; is it of another revision of the data?"
        )
    found: dict[str, dict[str, float]] = {}
    for query, document, score in zip(*(frame[column].tolist() for column in _COLUMNS), strict=True):
        found.setdefault(query, {})[document] = score
    return found, int(others)
