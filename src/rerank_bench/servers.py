"""Real reranking servers on this machine, with the demo reranker: `python -m rerank_bench.servers start|stop`.

`make servers` puts vLLM into `.venv-servers` and Infinity into `.venv-servers/infinity`; what is not there is left out.
Logs and pid files lie in `.cache/servers`. Tests and benchmarks start the same servers by `Server`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from rerank_bench import say
from rerank_eval.engine.quiet import hush
from rerank_eval.files import write_json

FOLDER = Path(".cache/servers")
PYTHONS = {"vllm": Path(".venv-servers/bin/python"), "infinity": Path(".venv-servers/infinity/bin/python")}
PORTS = {"vllm": 8101, "infinity": 8102}
DEMO = "demo:qwen3-python"
QWEN3_OVERRIDES = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
"""Make vLLM score by logit(yes) - logit(no); as in the model cards of Qwen3-Reranker."""
_QUIET = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
_STARTUP = 240.0
"""Seconds until a server has to be ready; vLLM takes 40 on two cores."""
_FAREWELL = 20.0


class Server:
    """A server in a process group of its own, on the loopback.

    Args:
        command: What starts it, without the port.
        log: File that gets what it prints.
        port: Where it listens; None takes a free one.
        env: What is added to this process's environment.

    Attributes:
        address: `http://127.0.0.1:PORT`.
        pid: Of the process, which leads its group; 0 while it does not run.
    """

    def __init__(
        self, command: Sequence[str], log: Path, port: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port() if port is None else port
        self.address = f"http://127.0.0.1:{self.port}"
        self.pid = 0
        self._command = [*command, "--host", "127.0.0.1", "--port", str(self.port)]
        self._log, self._env = log, {**os.environ, **_QUIET, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """What starts it."""
        return list(self._command)

    def start(self, timeout: float = _STARTUP) -> Self:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: It ends or is not ready in time; with the end of its log.
        """
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env, start_new_session=True
            )
        self.pid = self._process.pid
        ends = time.monotonic() + timeout
        while not self.ready():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > ends:
                self.kill()
                last = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
                what = "ended" if ended else f"was not ready after {timeout:.0f} s"
                raise RuntimeError(f"{Path(self._command[0])}: {what}, see {self._log}: " + " | ".join(last))
            time.sleep(0.5)
        return self

    def ready(self) -> bool:
        """Tell whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:  # noqa: S310 - the loopback
                return bool(answer.status == 200)  # noqa: PLR2004
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """End it and its children at once, as a crash would."""
        if self._process is not None:
            _signal(self.pid, signal.SIGKILL)
            self._process.wait()
            self._process, self.pid = None, 0

    def stop(self) -> None:
        """Ask it to end, and end it where it does not."""
        if self._process is not None:
            _signal(self.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_FAREWELL)
            self.kill()

    def __enter__(self) -> Self:  # noqa: D105
        return self if self._process is not None else self.start()

    def __exit__(self, *_: object) -> None:  # noqa: D105
        self.stop()


def vllm(
    model: Path,
    log: Path,
    *,
    template: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    port: int | None = None,
    threads: int | None = None,
    options: Sequence[str] = (),
    python: Path = PYTHONS["vllm"],
) -> Server:
    """Return a vLLM server of a reranker in float32, not started.

    Args:
        model: Folder of the checkpoint.
        log: See `Server`.
        template: File of a chat template; None for none.
        overrides: What its config is to say instead, such as `QWEN3_OVERRIDES`.
        port: See `Server`.
        threads: CPU threads; None for vLLM's choice.
        options: Further options, such as `--max-model-len`.
        python: Of an environment with vLLM.
    """
    command = [str(python.absolute()), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "demo", "--runner", "pooling", "--dtype", "float32", "--enforce-eager"]
    command += ["--hf-overrides", json.dumps(overrides)] if overrides else []
    command += ["--chat-template", str(template)] if template else []
    env = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    if threads:
        env |= {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return Server([*command, *options], log, port, env)


def infinity(
    model: Path, log: Path, *, port: int | None = None, options: Sequence[str] = (), python: Path = PYTHONS["infinity"]
) -> Server:
    """Return an Infinity server of a sequence classifier in float32, not started; see `vllm`."""
    command = [str(python.absolute().with_name("infinity_emb")), "v2", "--model-id", str(model)]
    command += ["--served-model-name", "demo", "--engine", "torch", "--device", "cpu", "--dtype", "float32"]
    return Server([*command, "--no-bettertransformer", "--no-model-warmup", *options], log, port)


def demo_folder() -> Path:
    """Return the folder of the demo reranker."""
    from rerank_eval.models.resolve import resolve_model

    return Path(resolve_model(DEMO, None, "servers").source).absolute()


def write_template(recipe: str, path: Path) -> Path:
    """Write a built-in recipe as a chat template file."""
    from rerank_eval.engine.chat_template import chat_template
    from rerank_eval.engine.recipes import RECIPES

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(chat_template(RECIPES[recipe]), encoding="utf-8")
    return path


def write_classifier(folder: Path) -> Path:
    """Write the demo reranker as a classifier with one label, the form that Infinity reads.

    Args:
        folder: Where to; left alone where it stands already.

    Returns:
        The folder; its files are such as transformers 4 reads too.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

    done = folder / "config.json"
    if done.is_file():
        return folder
    source = demo_folder()
    tokenizer = AutoTokenizer.from_pretrained(source)
    decoder = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    network = Qwen3ForSequenceClassification(Qwen3Config.from_pretrained(source, num_labels=1, dtype="float32"))
    network.model.load_state_dict(decoder.model.state_dict())
    no, yes = (decoder.lm_head.weight[tokenizer.convert_tokens_to_ids(word)] for word in ("no", "yes"))
    network.score.weight.data = (yes - no).detach()[None]
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    _merge(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    _merge(done, {"rope_theta": network.config.rope_parameters["rope_theta"]})
    return folder


def _merge(path: Path, values: Mapping[str, object]) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | values)


def free_port() -> int:
    """Return a port of the loopback that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> int:
    """Parse the arguments; start what is there, or stop what runs."""
    hush()
    parser = argparse.ArgumentParser(prog="python -m rerank_bench.servers", description=__doc__)
    parser.add_argument("what", choices=("start", "stop"))
    if parser.parse_args().what == "stop":
        return _stop_all()
    started = [_start(name) for name in PYTHONS if PYTHONS[name].is_file() or _absent(name)]
    say("stop them with: make servers-stop" if any(started) else "no server runs")
    return 0 if any(started) else 1


def _absent(name: str) -> bool:
    say(f"{name}: {PYTHONS[name]} is not there, so it is left out; make servers sets it up where it installs")
    return False


def _start(name: str) -> bool:
    mark, log = FOLDER / f"{name}.json", FOLDER / f"{name}.log"
    if _running(mark):
        say(f"{name}: runs already at http://127.0.0.1:{PORTS[name]}; make servers-stop stops it")
        return True
    if name == "vllm":
        template = write_template("card", FOLDER / "card.jinja")
        server = vllm(demo_folder(), log, template=template, overrides=QWEN3_OVERRIDES, port=PORTS[name])
        told = f"reranker.checkpoint={DEMO}"
    else:
        server = infinity(write_classifier(FOLDER / "qwen3-python-classifier"), log, port=PORTS[name])
        told = "reranker.instruction=none"
    try:
        server.start()
    except RuntimeError as error:
        say(f"{name}: {error}")
        return False
    write_json(mark, {"pid": server.pid, "port": server.port, "command": server.command})
    say(f"{name}: {server.address}, log {log}")
    say(f"  rerank-eval eval --set reranker.model={server.address} --set {told}")
    return True


def _stop_all() -> int:
    for mark in sorted(FOLDER.glob("*.json")):
        if _running(mark):
            pid = int(json.loads(mark.read_text(encoding="utf-8"))["pid"])
            _signal(pid, signal.SIGTERM)
            ends = time.monotonic() + _FAREWELL
            while _running(mark) and time.monotonic() < ends:
                time.sleep(0.2)
            _signal(pid, signal.SIGKILL)
            say(f"{mark.stem}: stopped")
        mark.unlink()
    return 0


def _running(mark: Path) -> bool:
    """Tell whether a pid file's process is still the server that it was written for."""
    if not mark.is_file():
        return False
    told = json.loads(mark.read_text(encoding="utf-8"))
    try:
        command = Path(f"/proc/{told['pid']}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return bool(told["command"][-4:] == command[:-1][-4:])


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main())
