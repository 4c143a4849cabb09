"""Runs the fuzzers for a time and records what they did: `make fuzz SECONDS=60`.

With atheris, inputs are guided by coverage; each target runs in a process of its own, under a limit of memory, so that
a crash of native code is told as well. `--random` takes random decisions instead, where atheris does not install.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MEMORY = 6 * 1024**3
_COUNT = 2_000_000_000
_KEPT = 20_000  # bytes of an input that is told


def main() -> int:
    """Fuzz every target, write results/fuzz, and say what was found.

    Returns:
        0, or 1 where an input violated the property.
    """
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--target", action="append", help="only this; several times")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", action="store_true", help="without atheris")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "fuzz")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    guided = not options.random
    if guided and importlib.util.find_spec("atheris") is None:
        sys.stderr.write(
            "atheris is not installed here (it has wheels for some Pythons only: 3.11 to 3.13 on Linux); "
            "`pip install atheris`, or fuzz without guidance: --random\n"
        )
        return 2
    if options.one:
        return _one(options.one, options.seconds, options.seed, options.output, guided=guided)
    from tests.fuzzing.targets import targets

    names = options.target or list(targets())
    failed = 0
    for name in names:
        told = _apart(name, options.seconds / len(names), options)
        failed += told["violations"] > 0
        sys.stdout.write(f"{name}: {told['runs']:,} runs in {told['seconds']:.0f} s, {told['ended']}\n")
        for line in told["found"]:
            sys.stdout.write(f"  {line}\n")
        sys.stdout.flush()
    return int(failed > 0)


def _apart(name: str, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """Fuzz one target in a process of its own, which may crash."""
    command = [sys.executable, "-m", "tests.fuzzing.run", "--one", name, "--seconds", str(seconds)]
    command += ["--seed", str(options.seed), "--output", str(options.output)]
    command += ["--random"] if options.random else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    path = options.output / f"{name}.json"
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"found": []}
    if done.returncode or not told.get("finished"):
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        told["found"] = [*told["found"], f"the process ended with {done.returncode}: {' | '.join(lines[-3:])[:300]}"]
        told = {"runs": 0, "seconds": 0.0, "ended": {}, **told, "violations": len(told["found"])}
        path.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return told


class _Session:
    """One target's runs."""

    def __init__(self, name: str, seconds: float, output: Path, engine: str, seed: int) -> None:
        from tests.fuzzing.targets import targets

        self.target = targets()[name]
        self.until = time.monotonic() + seconds
        self.started = time.monotonic()
        self.output = output
        self.facts: dict[str, Any] = {
            "target": name,
            "engine": engine,
            "seed": seed,
            "python": platform.python_version(),
        }
        self.runs = 0
        self.ended: dict[str, int] = {}
        self.found: dict[str, str] = {}
        self.base = Path(tempfile.mkdtemp(prefix="fuzz-"))

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until

    def try_one(self, data: bytes) -> None:
        from tests.fuzzing.guard import Violation, held
        from tests.fuzzing.mutate import mutated

        folder = self.base / "one"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        value = mutated(data, self.target.seeds, self.target.words)
        self.target.prepare(folder, value)
        self.runs += 1
        try:
            ended = held(lambda: self.target.run(folder), folder)
        except Violation as error:
            ended = "violation"
            line = " ".join(str(error).split())[:300]
            kind = line.split(": ", 1)[0]  # one of each kind and place
            if kind not in {known.split(": ", 1)[0] for known in self.found}:
                self.found[line] = value[:_KEPT].hex()
        self.ended[ended] = self.ended.get(ended, 0) + 1

    def write(self, *, finished: bool) -> None:
        told = {
            **self.facts,
            "runs": self.runs,
            "seconds": round(time.monotonic() - self.started, 1),
            "ended": dict(sorted(self.ended.items())),
            "violations": self.ended.get("violation", 0),
            "found": list(self.found),
            "inputs": dict(self.found),
            "finished": finished,
        }
        self.output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(told, indent=2, sort_keys=True) + "\n"
        (self.output / f"{self.facts['target']}.json").write_text(text, encoding="utf-8")


def _one(name: str, seconds: float, seed: int, output: Path, *, guided: bool) -> int:
    """Fuzz one target in this process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY * 4, MEMORY * 4))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import logging

    logging.disable(logging.CRITICAL)
    if not guided:
        session = _Session(name, seconds, output, "random", seed)
        session.write(finished=False)
        choose = random.Random(seed)
        while not session.over:
            session.try_one(choose.randbytes(choose.randrange(2, 60)))
        session.write(finished=True)
        return 0
    import atheris

    with atheris.instrument_imports(include=["rerank_eval"]):
        session = _Session(name, seconds, output, f"atheris {_version('atheris')}", seed)
    session.write(finished=False)

    def once(data: bytes) -> None:
        session.try_one(data)
        if session.over:
            session.write(finished=True)
            os._exit(0)

    corpus = session.base / "corpus"
    corpus.mkdir()
    choose = random.Random(seed)
    for number in range(64):
        (corpus / str(number)).write_bytes(choose.randbytes(choose.randrange(2, 60)))
    arguments = [sys.argv[0], f"-seed={seed}", f"-runs={_COUNT}", "-max_len=200", "-timeout=60", "-rss_limit_mb=0"]
    atheris.Setup([*arguments, str(corpus)], once)
    atheris.Fuzz()
    return 0


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    raise SystemExit(main())
