"""Functions and modules of the running Python's standard library, read from its sources.

Nothing is imported and nothing is executed: the sources are parsed with `ast`, and texts are cut from the real lines,
so that comments and layout stay. The content is a function of the interpreter's version alone; the order is that of
module names, then of lines, and does not depend on the file system or on PYTHONHASHSEED.

What is left out: tests (`test`, `tests`, `idle_test`), IDLE, `lib2to3` and the demos (applications, or a grammar, that
few installations carry whole), `pydoc_data` and `encodings` (tables), `_sysconfigdata*` (differs between machines),
`site-packages`, and what a distribution adds (`sitecustomize`, ...).
"""

from __future__ import annotations

import ast
import functools
import io
import re
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rerank_eval.errors import DataError
from rerank_eval.tasks.embedded.texts import normalised, sentences

SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "encodings"}
    | {"site-packages", "dist-packages", "ensurepip", "__phello__"}
)
"""Folder names that are not entered, at any depth."""
SKIPPED_MODULES = re.compile(r"_sysconfigdata.*|sitecustomize|usercustomize|_distutils_system_mod|this|antigravity")
"""Top-level modules that are not read: generated, added by a distribution, or a joke."""
MIN_MODULES = 100
"""Fewer readable modules than this is not a standard library."""
MIN_CODE_CHARACTERS = 120
"""A shorter function (`return self.tk.call('bell')`) is told by its name alone, and there are two thousand of them."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """A function or method that has a docstring and a body.

    Attributes:
        id: `module:qualified.name`, with `~2` and so on for a second definition of the same name (a property's setter,
            a branch for another platform). No white space.
        module: Dotted module name.
        name: Qualified name inside the module.
        code: The source without the docstring, dedented, decorators included; comments as they stand.
        source: The same with the docstring.
        summary: The docstring's first sentence, on one line.
        is_method: Defined in a class body.
        is_async: Defined with `async def`.
        raises: Its code holds a `raise` statement.
        yields: It is a generator: its own body, functions nested in it aside, holds `yield` or `yield from`.
        returns: Its own body returns a value (`return` and `return None` do not).
        decorators: The decorators' source texts, such as `property` or `functools.wraps(f)`.
    """

    id: str
    module: str
    name: str
    code: str
    source: str
    summary: str
    is_method: bool
    is_async: bool
    raises: bool
    yields: bool
    returns: bool
    decorators: tuple[str, ...]

    @property
    def package(self) -> str:
        """The top-level module or package, such as `json` for `json.decoder`."""
        return self.module.partition(".")[0]

    @property
    def short_name(self) -> str:
        """The last part of the qualified name."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Module:
    """A module of the standard library.

    Attributes:
        name: Dotted name; a package's own name stands for its `__init__.py`.
        code: The source without the module's docstring.
        docstring: The module's docstring, cleaned of indentation; empty when it has none.
    """

    name: str
    code: str
    docstring: str

    @property
    def package(self) -> str:
        """The top-level module or package, such as `json` for `json.decoder`."""
        return self.name.partition(".")[0]


def module_files(root: Path) -> list[tuple[str, Path]]:
    """List the standard library's modules.

    Args:
        root: The folder that holds `os.py`.

    Returns:
        Pairs of dotted name and file, sorted by name.

    Raises:
        DataError: The folder holds no sources to speak of (a zipped or stripped standard library).
    """
    found: list[tuple[str, Path]] = []

    def enter(folder: Path, prefix: str) -> None:
        for path in folder.iterdir():
            if path.is_dir():
                if path.name not in SKIPPED_FOLDERS and (path / "__init__.py").is_file():
                    enter(path, f"{prefix}{path.name}.")
            elif path.suffix == ".py" and path.stem.isidentifier() and (prefix or path.stem != "__init__"):
                name = prefix.removesuffix(".") if path.stem == "__init__" else prefix + path.stem
                if prefix or not SKIPPED_MODULES.fullmatch(name):
                    found.append((name, path))

    if root.is_dir():
        enter(root, "")
    if len(found) < MIN_MODULES:
        raise DataError(
            f"{root}: found {len(found)} Python sources, the embedded tasks need the standard library's; "
            "use a Python installation that ships its .py files (not a zipped or stripped one)"
        )
    return sorted(found)


def _read(path: Path) -> str | None:
    """Return a source text, decoded as its coding line says, with Unix line ends; None when it cannot be decoded."""
    raw = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        return raw.decode(encoding).replace("\r\n", "\n").replace("\r", "\n").replace("\f", "")
    except (SyntaxError, UnicodeDecodeError):
        return None


def _docstring_node(body: Sequence[ast.stmt]) -> ast.Expr | None:
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first
    return None


def _cut(lines: Sequence[str], node: ast.Expr, first: int, last: int) -> str:
    """Return the lines first..last (from 1, inclusive) without the docstring `node`.

    Columns of ast nodes count UTF-8 bytes, hence the encoding to and fro.
    """
    begin, end = node.lineno, node.end_lineno or node.lineno
    before = lines[begin - 1].encode()[: node.col_offset].decode()
    after = lines[end - 1].encode()[node.end_col_offset :].decode().lstrip("; \t")
    kept = [*lines[first - 1 : begin - 1]]
    joined = (before.rstrip() + " " + after).rstrip() if before.strip() else (before + after).rstrip()
    if joined.strip():
        kept.append(joined)
    rest = list(lines[end:last])
    # A blank line between docstring and code belongs to the docstring.
    while not joined.strip() and rest and not rest[0].strip():
        rest.pop(0)
    return "\n".join([*kept, *rest])


def _dedent(text: str) -> str:
    """Take the first line's indentation from every line that has it.

    `textwrap.dedent` would take the smallest one, which a multi-line string at column 0 makes nothing.
    """
    margin = text[: len(text) - len(text.lstrip())]
    return "\n".join(line.removeprefix(margin) for line in text.split("\n")).strip("\n")


def _own_nodes(function: FunctionNode) -> Iterator[ast.AST]:
    """Walk a function's body without entering functions, lambdas and classes nested in it."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))


def _is_none(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def _does_something(body: Sequence[ast.stmt]) -> bool:
    """Tell whether a body holds more than a docstring, `pass`, `...` and `raise NotImplementedError`.

    Without a body there is nothing that a description could be matched with.
    """
    for node in body:
        if isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue
        if isinstance(node, ast.Raise) and node.exc is not None and "NotImplemented" in ast.unparse(node.exc):
            continue
        return True
    return False


def _definitions(body: Sequence[ast.stmt], prefix: str, in_class: bool) -> Iterator[tuple[str, bool, FunctionNode]]:
    """Yield (qualified name, is_method, node) in the order of lines; functions nested in functions are left out.

    Their text is part of the outer function's document, so a query for them would have two right answers.
    """
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, in_class, node
        elif isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, f"{prefix}{node.name}.", True)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "handlers", "orelse", "finalbody"):
                for child in getattr(node, part, []):
                    inner = child.body if isinstance(child, ast.ExceptHandler) else [child]
                    yield from _definitions(inner, prefix, in_class)


def _function(module: str, name: str, is_method: bool, node: FunctionNode, lines: Sequence[str]) -> Function | None:
    docstring = _docstring_node(node.body)
    found = sentences(ast.get_docstring(node) or "")
    if docstring is None or not found or not _does_something(node.body):
        return None
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    code = _dedent(_cut(lines, docstring, first, node.end_lineno or node.lineno))
    if len(code) < MIN_CODE_CHARACTERS:
        return None
    nodes = list(_own_nodes(node))
    return Function(
        id=f"{module}:{name}",
        module=module,
        name=name,
        code=code,
        source=_dedent("\n".join(lines[first - 1 : node.end_lineno])),
        summary=found[0],
        is_method=is_method,
        is_async=isinstance(node, ast.AsyncFunctionDef),
        raises=any(isinstance(child, ast.Raise) for child in ast.walk(node)),
        yields=any(isinstance(child, ast.Yield | ast.YieldFrom) for child in nodes),
        returns=any(isinstance(child, ast.Return) and not _is_none(child.value) for child in nodes),
        decorators=tuple(ast.unparse(decorator) for decorator in node.decorator_list),
    )


def parse_file(name: str, path: Path) -> tuple[Module, list[Function]] | None:
    """Read one source file.

    Returns:
        The module and its functions with docstring and body, in the order of lines; None when the file cannot be
        decoded or parsed.
    """
    source = _read(path)
    if source is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    lines = source.split("\n")
    docstring = _docstring_node(tree.body)
    code = source if docstring is None else _cut(lines, docstring, 1, len(lines))
    found = (_function(name, *definition, lines) for definition in _definitions(tree.body, "", False))
    module = Module(name=name, code=code.strip("\n"), docstring=ast.get_docstring(tree) or "")
    return module, [function for function in found if function is not None]


def _unique(functions: Iterable[Function]) -> Iterator[Function]:
    """Give each id once, and leave out a document that says what an earlier one says."""
    ids: Counter[str] = Counter()
    seen: set[str] = set()
    for function in functions:
        text = normalised(function.code)
        if text in seen:
            continue
        seen.add(text)
        ids[function.id] += 1
        count = ids[function.id]
        yield function if count == 1 else replace(function, id=f"{function.id}~{count}")


@dataclass(frozen=True)
class Library:
    """What was read.

    Attributes:
        functions: All functions and methods with a docstring, in the order of module names and lines, no two of them
            with the same code.
        modules: All modules in the order of their names.
    """

    functions: tuple[Function, ...]
    modules: tuple[Module, ...]

    @functools.cached_property
    def by_id(self) -> dict[str, Function]:
        """Functions by id."""
        return {function.id: function for function in self.functions}


def read(root: Path) -> Library:
    """Read a standard library.

    Args:
        root: The folder that holds `os.py`.

    Returns:
        Its functions and modules. A file that cannot be decoded or parsed is passed over.

    Raises:
        DataError: The folder holds no sources to speak of.
    """
    parsed = [result for name, path in module_files(root) if (result := parse_file(name, path)) is not None]
    functions = _unique(function for _, found in parsed for function in found)
    return Library(functions=tuple(functions), modules=tuple(module for module, _ in parsed))


@functools.cache
def library() -> Library:
    """Read the running interpreter's standard library, once in a process (about four seconds on one core).

    Returns:
        Its functions and modules.

    Raises:
        DataError: The installation carries no sources.
    """
    return read(Path(sysconfig.get_path("stdlib")))
