"""Names that stand for parts one can add: metrics, rerankers, retrievers and so on.

Built-in parts and those of installed packages come through the same door, an entry point: a name and where its object
is (`package.module:object`), imported when somebody asks for that name. A package declares its own in pyproject.toml:

    [project.entry-points."rerank_eval.metrics"]
    rbp = "my_package.rbp:RBP"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from rerank_eval.errors import ConfigError
from rerank_eval.names import did_you_mean

T = TypeVar("T")
_OURS = "rerank-eval"


def parts_in(package: str, attribute: str = "PART", joint: str = "-") -> dict[str, str]:
    """List the built-in parts that are a file each of one package of ours, without importing them.

    Args:
        package: The package, such as `rerank_eval.rerankers.families`.
        attribute: What holds the part in each file.
        joint: What stands in a part's name for the underscores of its file's.

    Returns:
        Name -> where the object is, as in an entry point, by name of the file.
    """
    folder = Path(__file__).parent.joinpath(*package.split(".")[1:])
    names = sorted(path.stem for path in folder.glob("[!_]*.py"))
    return {name.replace("_", joint): f"{package}.{name}:{attribute}" for name in names}


class Registry(Generic[T]):
    """Parts of one kind by name; names are compared without regard to case.

    Args:
        group: The entry point group, such as `rerank_eval.metrics`.
        noun: What one part is called in messages, such as `metric`.
        builtins: Name -> where the object is, as in an entry point: `rerank_eval.metrics.ndcg:NDCG`.
        needs: Attributes that every object must have: the members of its protocol.
    """

    def __init__(
        self, group: str, noun: str, builtins: Mapping[str, str] | None = None, needs: Sequence[str] = ()
    ) -> None:
        self.group, self.noun, self.builtins = group, noun, tuple(builtins or ())
        self._builtins = [EntryPoint(name, value, group) for name, value in (builtins or {}).items()]
        self._needs = tuple(needs)
        self._objects: dict[str, T] = {}
        self._registered: list[str] = []
        self._points: dict[str, list[EntryPoint]] | None = None

    def register(self, name: str, part: T) -> T:
        """Add a part from a running program, such as a notebook.

        Returns:
            The part.

        Raises:
            ConfigError: The name is taken, or the object lacks an attribute.
        """
        if name in self:
            raise ConfigError(f"{self.noun} {name!r} is there already; register it under another name")
        self._objects[self._key(name)] = self._checked(part, name, "the program")
        self._registered.append(name)
        return part

    def names(self) -> list[str]:
        """Return every name: built-in ones in their order, then those of packages, then those registered."""
        return [*(points[0].name for points in self._declared().values()), *self._registered]

    def __contains__(self, name: str) -> bool:
        """Tell whether a name stands for a part, without importing it."""
        return self._key(name) in self._declared() or self._key(name) in self._objects

    def __iter__(self) -> Iterator[str]:
        """Yield every name."""
        return iter(self.names())

    def get(self, name: str, where: str = "") -> T:
        """Return the part that a name stands for, importing it if nobody has.

        Raises:
            ConfigError: No part has this name, two packages declare it, it cannot be imported, or it is no such part.
        """
        key = self._key(name)
        if key not in self._objects:
            points = self._declared().get(key)
            if points is None:
                before = f"{where}: " if where else ""
                raise ConfigError(f"{before}there is no {self.noun} {name!r}; {did_you_mean(name, self.names())}")
            self._objects[key] = self._load(points)
        return self._objects[key]

    def source(self, name: str) -> str | None:
        """Return where a declared part is, as `package.module:object`; None where the running program registered it."""
        points = self._declared().get(self._key(name))
        return points[0].value if points else None

    def _key(self, name: str) -> str:
        return name.lower()

    def _declared(self) -> dict[str, list[EntryPoint]]:
        if self._points is None:
            self._points = {}
            for point in [*self._builtins, *entry_points(group=self.group)]:
                known = self._points.setdefault(self._key(point.name), [])
                # A package that is found twice on the path, such as an editable install, declares its names once.
                if (point.value, _package(point)) not in [(one.value, _package(one)) for one in known]:
                    known.append(point)
        return self._points

    def _load(self, points: Sequence[EntryPoint]) -> T:
        point = points[0]
        if len(points) > 1:
            packages = " and ".join(f"{_package(one)} ({one.value})" for one in points)
            raise ConfigError(f"{self.noun} {point.name!r}: {packages} both declare it; uninstall or rename one")
        try:
            part = point.load()
        except Exception as error:  # whatever somebody's module does when it is imported
            raise ConfigError(
                f"{self.noun} {point.name!r}: {point.value} of the package {_package(point)} cannot be imported "
                f"({type(error).__name__}: {error}); mend or uninstall that package"
            ) from error
        return self._checked(part, point.name, f"{point.value} of the package {_package(point)}")

    def _checked(self, part: object, name: str, source: str) -> T:
        lacking = [attribute for attribute in self._needs if not hasattr(part, attribute)]
        if lacking:
            raise ConfigError(f"{self.noun} {name!r}: {source} has no {', '.join(lacking)}, so that it is none")
        return cast("T", part)


RERANKERS: Registry[Any] = Registry("rerank_eval.rerankers", "reranker", parts_in("rerank_eval.rerankers.families"))
"""Rerankers by name, and families of them: see `rerank_eval.rerankers.family`."""
RETRIEVERS: Registry[Any] = Registry("rerank_eval.retrievers", "retriever", parts_in("rerank_eval.retrievers.families"))
"""Retrievers by name, and families of them: see `rerank_eval.retrievers.family`."""

SERVERS: Registry[Any] = Registry("rerank_eval.servers", "server API", parts_in("rerank_eval.servers.apis"))
"""Protocols of servers by name: see `rerank_eval.servers.protocol`."""


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else _OURS
