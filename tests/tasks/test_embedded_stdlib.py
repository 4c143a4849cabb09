"""Extraction, on a small library written here and on the running interpreter's own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rerank_eval.errors import DataError
from rerank_eval.tasks.embedded import stdlib, texts

SAMPLE = '''\
"""A module; déjà vu.  It has two sentences."""
import functools

LONG = "x" * 100  # keeps the functions below from being all there is


@functools.lru_cache(maxsize=None)
def parse_header(line):
    """Parse a header line. More about it.

    And a second paragraph.
    """

    # a comment that stays
    name, _, value = line.partition(":")
    if not name: raise ValueError("no name in the header line")
    return name.strip(), value.strip()


def one_liner(first, second): "é Return the sum of two things."; return (
    first + second + first * second + first + second - (first + second + first * second) + first)


class Reader:
    """Not a function."""

    if True:
        async def read(self, size):
            """read(size) -> bytes

            Read that many bytes from the stream, e.g. ten of them.  Then stop.
            """
            text = """
at column 0, with more text to make it long enough
"""
            def inner():
                """Do what nobody asks an inner function to do, which is a lot."""
                yield size
            self.position = text, inner
            return None

    @property
    def size(self):
        """The number of bytes that are left in the stream."""
        return len(self.buffer) - self.position  # what is left of the buffer after all that was read before

    @size.setter
    def size(self, value):
        """Set the number of bytes that are left in the stream."""
        self.buffer = self.buffer[: self.position + value]
        yield self.buffer, "and a few more characters, so that it is long enough"

    def abstract(self, with_many, parameters_so_that, it_is_long_enough_for_the_rule_about_length, and_more):
        """Have no body, which makes it useless as a document."""
        raise NotImplementedError


def again(line):
    """Say in another way what another function says."""
    total = sum(ord(character) for character in line if character.isalpha() or character.isdigit())
    return total


def twice(line):
    return 1
'''
COPY = '''\
def again(line):
    """Have the same code as a function elsewhere."""
    total = sum(ord(character) for character in line
                if character.isalpha() or character.isdigit())
    return total
'''


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder that looks like a standard library."""
    for number in range(stdlib.MIN_MODULES):
        (tmp_path / f"filler{number}.py").write_text("VALUE = 1\n")
    (tmp_path / "sample.py").write_text(SAMPLE, encoding="utf-8")
    (tmp_path / "zcopy.py").write_bytes(COPY.replace("\n", "\r\n").encode())
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: ascii -*-\nX = '\xe9'\n")
    for skipped in ("test", "site-packages", "nopackage", "package/tests"):
        folder = tmp_path / skipped
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        (folder / "sample.py").write_text(SAMPLE, encoding="utf-8")
    (tmp_path / "nopackage" / "__init__.py").unlink()
    (tmp_path / "package" / "__init__.py").write_text('"""A package with a description."""\n')
    (tmp_path / "sitecustomize.py").write_text(SAMPLE, encoding="utf-8")
    return tmp_path


def test_what_is_read_and_what_is_not(sources: Path) -> None:
    names = [name for name, _ in stdlib.module_files(sources)]
    assert names == sorted(names)
    assert {"sample", "package", "zcopy"} <= set(names)
    assert not [name for name in names if "test" in name or "site" in name or "nopackage" in name]
    library = stdlib.read(sources)
    assert [one.id for one in library.functions] == [
        "sample:parse_header",
        "sample:one_liner",
        "sample:Reader.read",
        "sample:Reader.size",
        "sample:Reader.size~2",
        "sample:again",
    ]
    assert {module.name: module.docstring for module in library.modules}["package"] == "A package with a description."


def test_code_is_the_source_without_the_docstring(sources: Path) -> None:
    found = stdlib.read(sources).by_id
    assert found["sample:parse_header"].code == (
        "@functools.lru_cache(maxsize=None)\n"
        "def parse_header(line):\n"
        "    # a comment that stays\n"
        '    name, _, value = line.partition(":")\n'
        '    if not name: raise ValueError("no name in the header line")\n'
        "    return name.strip(), value.strip()"
    )
    assert found["sample:one_liner"].code == (
        "def one_liner(first, second): return (\n"
        "    first + second + first * second + first + second - (first + second + first * second) + first)"
    )
    read = found["sample:Reader.read"].code
    assert read.startswith('async def read(self, size):\n    text = """\nat column 0, with')
    assert '    def inner():\n        """Do what nobody' in read
    for function in found.values():
        assert ast.parse(function.code)
        assert '"""' + function.summary not in function.code
        assert function.summary in " ".join(function.source.split())


def test_the_module_without_its_docstring(sources: Path) -> None:
    (module,) = [module for module in stdlib.read(sources).modules if module.name == "sample"]
    assert module.docstring == "A module; déjà vu.  It has two sentences."
    assert module.code.startswith("import functools\n\nLONG")
    assert module.code.endswith("def twice(line):\n    return 1")


def test_properties_of_functions(sources: Path) -> None:
    found = stdlib.read(sources).by_id
    parse, read = found["sample:parse_header"], found["sample:Reader.read"]
    assert (parse.is_method, parse.is_async, parse.raises, parse.returns, parse.yields) == (0, 0, 1, 1, 0)
    assert (read.is_method, read.is_async, read.raises, read.returns, read.yields) == (1, 1, 0, 0, 0)
    assert parse.decorators == ("functools.lru_cache(maxsize=None)",)
    assert found["sample:Reader.size"].decorators == ("property",)
    assert found["sample:Reader.size~2"].decorators == ("size.setter",)
    assert found["sample:Reader.size~2"].yields
    assert (read.module, read.package, read.name, read.short_name) == ("sample", "sample", "Reader.read", "read")


def test_summaries(sources: Path) -> None:
    found = stdlib.read(sources).by_id
    assert found["sample:parse_header"].summary == "Parse a header line."
    assert found["sample:Reader.read"].summary == "Read that many bytes from the stream, e.g. ten of them."


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Use os.path, i.e. paths, and 3.5 more. Done", ["Use os.path, i.e. paths, and 3.5 more.", "Done"]),
        ("f(x) -> y\n\nDo it now.", ["Do it now."]),
        ("  \n\n  ", []),
        ("f(x)", []),
        ("On two\n   lines.", ["On two lines."]),
    ],
)
def test_sentences(docstring: str, expected: list[str]) -> None:
    assert texts.sentences(docstring) == expected


@pytest.mark.parametrize(
    ("query", "good"),
    [
        ("Read a line from the file.", True),
        ("Read it.", False),
        ("Read it now.", False),
        ("See the base class method.", False),
        ("Implements the iterator protocol here.", False),
        ("Implements reading of and returns the next line.", True),
        ("x" * 500 + " and more words", False),
        ("quoted-string = DQUOTE qcontent more DQUOTE", False),
        ("1 + 2 = 3 == 4", False),
    ],
)
def test_informative(query: str, good: bool) -> None:
    assert texts.informative(query) is good


@pytest.mark.parametrize("make", [True, False], ids=["zipped", "absent"])
def test_a_library_without_sources_ends_in_one_line(tmp_path: Path, make: bool) -> None:
    root = tmp_path / "python311.zip"
    if make:
        root.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"python311\.zip: found 0 Python sources") as raised:
        stdlib.read(root)
    assert "\n" not in str(raised.value)


def test_a_family_is_never_divided() -> None:
    for one, other in [("_pydatetime", "datetime"), ("_collections_abc", "collections"), ("_pydecimal", "decimal")]:
        assert texts.split_of(one) == texts.split_of(other)


def test_the_running_interpreters_library() -> None:
    library = stdlib.library()
    assert stdlib.library() is library
    assert len(library.functions) > 3000
    assert len(library.modules) > 200
    ids = [one.id for one in library.functions]
    assert len(set(ids)) == len(ids)
    assert not [one for one in ids if len(one.split()) != 1]
    codes = [texts.normalised(one.code) for one in library.functions]
    assert len(set(codes)) == len(codes)
    assert "json.decoder:JSONDecoder.decode" in library.by_id
    assert library.by_id["json.decoder:JSONDecoder.decode"].code.startswith("def decode(self, s, _w=WHITESPACE.match):")
    shares = [texts.split_of(one.package) for one in library.functions]
    assert 0.4 < shares.count("test") / len(shares) < 0.6
