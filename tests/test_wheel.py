"""The wheel, installed alone and used in an empty folder: what someone without the checkout gets.

The wheel is built here and installed without a network; only its dependencies are those of the environment that runs
the tests. `make test-wheel` runs it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.analysis.published_files import write_published

ROOT = Path(__file__).parents[1]
QUICK = ["--set", "tasks=[PyModuleRetrieval]", "--set", "retriever.top_k=2"]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Installed:
    """A wheel, the environment that holds it and nothing else of ours, and the folder where its commands run."""

    wheel: Path
    venv: Path
    folder: Path

    def run(
        self, *command: str | Path, folder: Path | None = None, path: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment; `path` is put before its own packages."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RERANK_EVAL_")}
        environment.pop("PYTHONPATH", None)
        if path is not None:
            environment["PYTHONPATH"] = str(path)
        environment["PATH"] = f"{self.venv / 'bin'}{os.pathsep}{environment['PATH']}"
        environment["RERANK_EVAL_CACHE"] = str(self.venv.parent / "cache")
        return subprocess.run(
            list(command), cwd=folder or self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def output(self, *arguments: str | Path) -> str:
        done = self.run("rerank-eval", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    root = tmp_path_factory.mktemp("wheel")
    build = [*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", root, ROOT]
    subprocess.run(build, check=True)
    [wheel] = root.glob("*.whl")
    venv = root / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    # A folder that a .pth file names is searched, but its own .pth files are not read: the editable install stays out.
    [packages] = (venv / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # Someone else's repository around it, whose commit no manifest may take for ours.
    for arguments in (["init", "--quiet"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *arguments, *(["--allow-empty"] if "commit" in arguments else [])], cwd=root, check=True)
    found = Installed(wheel, venv, root)
    where = found.run("python", "-c", "import rerank_eval; print(rerank_eval.__file__)")
    assert where.stdout.strip() == str(packages / "rerank_eval" / "__init__.py"), where.stderr
    return found


@pytest.fixture
def installed(environment: Installed, request: pytest.FixtureRequest) -> Installed:
    folder = environment.folder / request.node.name
    folder.mkdir()
    return dataclasses.replace(environment, folder=folder)


def test_the_wheel_holds_the_product_and_its_data_alone(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"rerank_eval"}
    for folder in ("configs", "evals"):
        ours = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        assert ours
        assert {f"rerank_eval/_shipped/{path.relative_to(ROOT)}" for path in ours} <= set(names)


def test_the_default_run_is_the_checkout_s(installed: Installed) -> None:
    printed = installed.output("eval", *QUICK)
    assert printed.startswith("config: offline (the default: no GPU and no hub needed; comes with rerank-eval)\n")
    assert "computed 4, done before 0" in printed
    here = installed.folder / "results" / "runs"
    manifests = {path.relative_to(here): json.loads(path.read_text()) for path in here.rglob("manifest.json")}
    assert len(manifests) == 4
    for manifest in manifests.values():
        assert manifest["environment"]["git"] is None
        assert manifest["environment"]["packages"]["rerank-eval"] == installed.wheel.name.split("-")[1]
        assert str(installed.venv.parent) not in json.dumps(manifest)
    # The same run of the checkout, in its own folder, has the same identities and the same numbers.
    done = installed.run(
        "python", "-m", "rerank_eval", "eval", *QUICK, "--set", f"results_dir={installed.folder / 'checkout'}",
        folder=ROOT, path=ROOT / "src",
    )  # fmt: skip
    assert "config: configs/offline.yaml (the default: no GPU and no hub needed)\n" in done.stdout, done.stderr
    there = installed.folder / "checkout" / "runs"
    for path, manifest in manifests.items():
        theirs = json.loads((there / path).read_text())
        assert (theirs["identity"], theirs["scores"]) == (manifest["identity"], manifest["scores"])


def test_commands_work_in_an_empty_folder(installed: Installed) -> None:
    assert "MTEB-Code" in installed.output("tasks")
    assert "qwen3-8b" in installed.output("configs")
    assert "29,472 pairs" in installed.output("plan", "--rate", "1")
    assert "P(yes):" in installed.output("score", "--query", "a", "--document", "b")
    assert "nothing to fetch" in installed.output("fetch", "--dry-run")
    assert "0 failure(s)" in installed.output("doctor", "--no-weights")
    assert "run it: rerank-eval eval --config model-card.yaml" in installed.output("init", "model-card")
    lab = ["lab", "--task", "PyModuleRetrieval", "-i", "none", "-i", "task", "--set", "retriever.model=bm25"]
    assert "written: results/labs/" in installed.output(*lab, "--first", "2", "--most", "4")


def test_a_container_s_build_says_which_commit_the_wheel_is_of(installed: Installed) -> None:
    code = "from rerank_eval.pipeline.provenance import environment; print(environment()['git'])"
    done = installed.run("env", "RERANK_EVAL_COMMIT=3f2a9c", "python", "-c", code)
    assert done.stdout == "{'commit': '3f2a9c', 'dirty': False}\n", done.stderr


def test_published_results_are_judged(installed: Installed) -> None:
    done = installed.run("rerank-eval", "reproduce", "--only-judge")
    assert done.stderr == "error: results: no such folder; name a results folder with --results\n"
    write_published(installed.folder / "published")
    printed = installed.output("reproduce", "--only-judge", "--results", "published")
    assert "published file" in printed


def test_what_is_missing_is_named_with_a_command_that_works_anywhere(installed: Installed) -> None:
    done = installed.run("rerank-eval", "eval", "--config", "qwen3-8b", "--task", "SciFact")
    assert done.returncode == 5, done.stderr
    assert "run `rerank-eval fetch --config qwen3-8b --task SciFact --data-root mirror/data" in done.stderr
    assert str(installed.venv.parent) not in done.stdout + done.stderr
