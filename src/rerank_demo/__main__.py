"""`python -m rerank_demo`: prepare the data, train or go on training, export."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from rerank_demo.mining import SHARDS
from rerank_demo.session import Session, Settings
from rerank_eval.errors import RerankEvalError
from rerank_eval.models.resolve import cache_dir


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    found = argparse.ArgumentParser(prog="python -m rerank_demo", description=__doc__)
    found.add_argument("--folder", type=Path, default=cache_dir() / "train-demo", help="working folder")
    found.add_argument("--run", default="main", help="name of the run within it; a run that is there is taken up")
    found.add_argument("--hours", type=float, default=10.0, help="stop after so long")
    found.add_argument("--steps", type=int, default=None, help="stop at this step")
    found.add_argument(
        "--decay", type=int, default=None, help="let the rates fall to zero over so many steps, then stop"
    )
    found.add_argument("--seed", type=int, default=0, help="of a new run; one that is taken up keeps its own")
    found.add_argument(
        "--begin",
        type=Path,
        default=None,
        metavar="CHECKPOINT",
        help="weights that a new run begins with, of an exported checkpoint (its optimiser begins anew)",
    )
    found.add_argument("--no-download", action="store_true", help="use the wheels that are there")
    found.add_argument(
        "--mine",
        type=int,
        nargs="?",
        const=SHARDS,
        metavar="PARTS",
        help=f"only compute MiniLM's candidates, to train against, in so many of the corpus's {SHARDS} parts",
    )
    found.add_argument("--export", type=Path, default=None, help="only write the best checkpoint to this folder")
    found.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a field of a plan or the shape; a run keeps it"
    )
    found.add_argument("--threads", type=int, default=torch.get_num_threads())
    return found


def main() -> int:
    """Run the command line; returns the exit status."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    try:
        kept = Settings.stored(Session.settings_file(options.folder, options.run))
        settings = Settings.parse(options.set, kept or Settings(seed=options.seed))
        session = Session(options.folder, options.run, settings, allow_download=not options.no_download)
        if options.mine is not None:
            session.mine(options.mine)
        elif options.export is not None:
            session.export(options.export)
        else:
            until = time.monotonic() + options.hours * 3600
            session.train(until=until, steps=options.steps, decay=options.decay, begin=options.begin)
    except RerankEvalError as error:
        print(f"error: {error}")  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
