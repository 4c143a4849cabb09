"""Packages that are missing, too old or broken are named with the command that mends them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rerank_eval.doctor.versions import check_imports, check_packages, check_python

ROOT = Path(__file__).parents[2]


def test_this_environment_is_right() -> None:
    findings = [*check_python(), *check_packages(), *check_imports()]
    assert {finding.level for finding in findings} == {"ok"}
    assert "mteb" in findings[1].found
    assert "pytrec_eval" in findings[2].found


def test_an_old_python_is_a_failure() -> None:
    [finding] = check_python("3.10.4", ">=3.11")
    assert (finding.level, finding.found) == ("failure", "3.10.4, and >=3.11 is needed")
    assert "python3.12 -m venv" in finding.remedy


@pytest.mark.parametrize(
    ("requirement", "level", "found"),
    [
        ("mteb>=2.99,<3", "failure", r"is installed, mteb<3,>=2.99 is needed"),
        ("no-such-package-anywhere>=1", "failure", "not installed; no-such-package-anywhere>=1 is needed"),
        ("torchao>=99; extra == 'quantized'", "warning", "is installed, torchao>=99 is needed"),
    ],
)
def test_a_wrong_package_is_named_with_its_command(requirement: str, level: str, found: str) -> None:
    findings = list(check_packages([requirement, "torch>=2.10"]))
    assert [finding.level for finding in findings] == [level, "ok"]
    assert found in findings[0].found
    assert "pip install '" in findings[0].remedy


def test_an_optional_package_may_be_missing() -> None:
    [finding] = check_packages(["no-such-package-anywhere>=1; extra == 'bench'"])
    assert finding.level == "ok"


def test_a_broken_torch_ends_neither_the_report_nor_in_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libtorch_cpu.so: undefined symbol: _ZN3c10')")
    done = subprocess.run(
        [sys.executable, "-m", "rerank_eval", "doctor", "--set", f"results_dir={tmp_path / 'results'}"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'src'}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "failure   import torch: ImportError: libtorch_cpu.so: undefined symbol" in done.stdout
    assert "ok        config:" in done.stdout  # the checks behind it ran
    assert f"{tmp_path / 'results'} can be written" in done.stdout
