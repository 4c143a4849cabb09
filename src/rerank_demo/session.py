"""A session of training: takes a run up where it was left, trains, evaluates, saves, exports."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import Qwen3ForCausalLM

from rerank_demo.batches import Batches, BatchPlan, answer_ids
from rerank_demo.corpus import package_of, packages
from rerank_demo.data import TrainingData, mine_minilm, prepare
from rerank_demo.evaluation import evaluate, held_out, instructions_followed
from rerank_demo.export import export
from rerank_demo.initialisation import Scales, initialise, rarity
from rerank_demo.loop import Run, RunPlan, append_log
from rerank_demo.mining import HELD_OUT
from rerank_demo.network import Shape
from rerank_demo.stages import earlier_runs, note_begin, note_stage, pairs_trained, stages
from rerank_demo.tokenizer import load_tokenizer
from rerank_eval.errors import ConfigError, DataError

SAVE_SECONDS = 180.0
PRINT_STEPS = 20


@dataclass(frozen=True)
class EvaluationPlan:
    """How often and on how much a run is evaluated while it trains.

    Attributes:
        minutes: Between two evaluations.
        queries: Held-out queries.
        depth: Candidates of each retriever.
        instructed: Topics with two instructions each.
    """

    minutes: float = 25.0
    queries: int = 150
    depth: int = 30
    instructed: int = 30


@dataclass(frozen=True)
class Settings:
    """All that makes one run differ from another."""

    shape: Shape = field(default_factory=Shape)
    scales: Scales = field(default_factory=Scales)
    batches: BatchPlan = field(default_factory=BatchPlan)
    run: RunPlan = field(default_factory=RunPlan)
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)
    seed: int = 0
    bfloat16: bool = True

    @classmethod
    def stored(cls, path: Path) -> Settings | None:
        """Read the settings that a run was last trained with; None when it has not begun."""
        if not path.is_file():
            return None
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parts: dict[str, Any] = {
            "shape": Shape,
            "scales": Scales,
            "batches": BatchPlan,
            "run": RunPlan,
            "evaluation": EvaluationPlan,
        }
        return cls(**{key: parts[key](**value) if key in parts else value for key, value in kept.items()})

    @classmethod
    def parse(cls, given: Sequence[str], base: Settings | None = None) -> Settings:
        """Read `part.key=value` texts, such as `run.learning_rate=0.002`.

        Args:
            given: The texts.
            base: What they change; the defaults when None.

        Raises:
            ConfigError: There is no such field, or the value is not of its kind.
        """
        settings = base or cls()
        for text in given:
            path, _, value = text.partition("=")
            part, _, key = path.partition(".")
            holder: Any = getattr(settings, part, None)
            names = [one.name for one in fields(holder)] if hasattr(holder, "__dataclass_fields__") else []
            try:
                if key not in names:
                    raise ValueError("no such field")
                changed: dict[str, Any] = {part: replace(holder, **{key: json.loads(value)})}
                settings = replace(settings, **changed)
            except ValueError as error:
                known = ", ".join(one.name for one in fields(cls))
                raise ConfigError(f"--set {text}: {error}; give PART.KEY=VALUE, PART of {known}") from None
        return settings


class Session:
    """A run in a working folder.

    Args:
        folder: Working folder, shared by runs.
        name: The run's name.
        settings: What makes it differ; a run that is taken up must have been begun with the same shape.
        allow_download: Get missing wheels by pip.
        data: What to train on; prepared from the project's list of packages when None.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: Settings,
        *,
        allow_download: bool = True,
        data: TrainingData | None = None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.data = prepare(folder, allow_download=allow_download) if data is None else data
        self._run_folder = folder / "runs" / name
        self._run_folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def settings_file(folder: Path, name: str) -> Path:
        """Name the file that holds a run's settings."""
        return folder / "runs" / name / "settings.json"

    @property
    def state(self) -> Path:
        """File that a later session takes up."""
        return self._run_folder / "state.pt"

    @property
    def best(self) -> Path:
        """File with the averaged weights that did best on held-out packages."""
        return self._run_folder / "best.pt"

    def start(self, begin: Path | None = None) -> Run:
        """Initialise a run, or take up the one that is there.

        Args:
            begin: A checkpoint of an earlier run, whose weights a new run begins with instead of wired ones.

        Raises:
            DataError: The checkpoint is not there, or its vocabulary or shape is another.
        """
        initial = self._run_folder / "initial.pt"
        if initial.is_file():
            model = self._empty()
            model.load_state_dict(torch.load(initial, weights_only=True, map_location="cpu"), strict=False)
        elif begin is not None:
            model = self._exported(begin)
            note_begin(self._run_folder, begin)
            torch.save(dict(model.named_parameters()), initial)
        else:
            model = initialise(
                self.data.tokenizer,
                token_rarity(self.data),
                self.settings.shape,
                self.settings.seed,
                self.settings.scales,
            )
            torch.save(dict(model.named_parameters()), initial)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        batches = Batches(self.data, self.settings.batches, self.settings.seed)
        run = Run(model, batches, self.settings.run, answer_ids(self.data), bfloat16=self.settings.bfloat16)
        if self.state.is_file():
            run.load(self.state)
        return run

    def _empty(self) -> Qwen3ForCausalLM:
        from rerank_demo.network import qwen3_config

        tokenizer = self.data.tokenizer
        config = qwen3_config(self.settings.shape, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
        return Qwen3ForCausalLM(config).float()

    def _exported(self, checkpoint: Path) -> Qwen3ForCausalLM:
        """Read the weights of a checkpoint that `export` wrote."""
        weights = checkpoint / "model.safetensors"
        lacking = [one for one in ("tokenizer.json", "training.json", weights.name) if not (checkpoint / one).is_file()]
        if lacking:
            raise DataError(f"{checkpoint} is no checkpoint of this training: it has no {' and no '.join(lacking)}")
        if load_tokenizer(checkpoint).get_vocab() != self.data.tokenizer.get_vocab():
            raise DataError(f"{checkpoint} has another vocabulary than the corpus in {self.folder}; begin without it")
        model = self._empty()
        kept, own = load_file(weights), dict(model.named_parameters())
        if {name: value.shape for name, value in kept.items()} != {name: value.shape for name, value in own.items()}:
            raise DataError(f"{checkpoint} has another shape than --set shape.* says; begin with the same")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(kept[name])
        return model

    def train(
        self, *, until: float, steps: int | None = None, decay: int | None = None, begin: Path | None = None
    ) -> Run:
        """Train.

        Args:
            until: `time.monotonic()` at which to stop.
            steps: Step at which to stop.
            decay: Let the rates fall to zero over so many steps from here, then stop.
            begin: A checkpoint that a new run begins with.

        Returns:
            The run as it was left; its state is saved.
        """
        run = self.start(begin)
        settings = json.dumps(asdict(self.settings), indent=1)
        self.settings_file(self.folder, self._run_folder.name).write_text(settings + "\n", encoding="utf-8")
        stage = {"settings": asdict(self.settings), "decay_steps": decay, "queries": len(self.data.bm25.queries)}
        note_stage(self._run_folder, run.step, stage)
        if decay is not None:
            run.plan = replace(run.plan, decay_from=run.step, decay_steps=decay)
            steps = run.step + decay
        held = held_out(self.folder, self.data)
        if run.step == 0:
            self._evaluate(run, held)
        saved = evaluated = time.monotonic()
        recent: list[dict[str, float]] = []
        while time.monotonic() < until and (steps is None or run.step < steps):
            recent.append(run.train_step())
            if run.step % PRINT_STEPS == 0:
                self._report(run, recent)
                recent = []
            now = time.monotonic()
            if now - evaluated > self.settings.evaluation.minutes * 60:
                self._evaluate(run, held)
                evaluated = time.monotonic()
            if now - saved > SAVE_SECONDS:
                run.save(self.state)
                saved = time.monotonic()
        run.save(self.state)
        self._evaluate(run, held)
        return run

    def _report(self, run: Run, recent: Sequence[dict[str, float]]) -> None:
        keys = {key: None for one in recent for key in one}
        row: dict[str, Any] = {key: float(np.mean([one[key] for one in recent if key in one])) for key in keys}
        told = "".join(f"  {key} {value:.3f}" for key, value in row.items())
        pairs = pairs_trained(self._run_folder, run.step, asdict(self.settings))
        row |= {"step": run.step, "seconds": round(run.seconds, 1), "pairs_per_second": round(pairs / run.seconds, 1)}
        append_log(self._run_folder / "log.jsonl", row)
        print(f"step {run.step}{told}  {row['pairs_per_second']:.0f} pairs/s", flush=True)  # noqa: T201

    def _evaluate(self, run: Run, held: Any) -> None:
        plan = self.settings.evaluation
        found = run.averaged(lambda model: evaluate(model, self.data, held, queries=plan.queries, depth=plan.depth))
        if plan.instructed:
            found["followed"] = run.averaged(
                lambda model: instructions_followed(model, self.data, groups=plan.instructed)
            )
        row = {"step": run.step, "seconds": round(run.seconds, 1), **found}
        append_log(self._run_folder / "evaluation.jsonl", row)
        print("held-out packages: " + "  ".join(f"{key} {value:.3f}" for key, value in row.items()), flush=True)  # noqa: T201
        kept = torch.load(self.best, weights_only=True)["figures"] if self.best.is_file() else None
        if kept is None or merit(row) > merit(kept):
            weights = run.averaged(
                lambda model: {name: value.detach().cpu().clone() for name, value in model.named_parameters()}
            )
            temporary = self.best.with_suffix(".tmp")
            torch.save({"weights": weights, "figures": row, "plan": asdict(self.settings)}, temporary)
            temporary.rename(self.best)

    def mine(self, shards: int | None = None) -> None:
        """Compute MiniLM's candidates of the training queries, once.

        Args:
            shards: How many of the corpus's parts to take; all when None.
        """
        mine_minilm(self.folder, self.data, shards)

    def export(self, target: Path) -> Path:
        """Write the best weights as a checkpoint; `training.figures` adds what it gains on the test split.

        Args:
            target: Folder to write.

        Raises:
            DataError: The run has no evaluated weights yet.
        """
        if not self.best.is_file():
            raise DataError(f"{self._run_folder} holds no evaluated weights yet; train first")
        best = torch.load(self.best, weights_only=True)
        model = self._empty()
        model.load_state_dict(best["weights"], strict=False)
        return export(model, self.data.tokenizer, target, self._record(model, best), packages())

    def _record(self, model: Qwen3ForCausalLM, best: dict[str, Any]) -> dict[str, Any]:
        figures, plan, data = best["figures"], best["plan"], self.data
        batches = plan["batches"]
        held = sorted(
            {package_of(one) for one, place in zip(data.functions, data.shard, strict=True) if place == HELD_OUT}
        )
        return {
            "layers": plan["shape"]["num_hidden_layers"],
            "hidden": plan["shape"]["hidden_size"],
            "parameters": sum(value.numel() for value in model.parameters()),
            "vocabulary": len(data.tokenizer),
            "queries": len(data.bm25.queries),
            "functions": int(np.isin(data.shard, np.unique(data.shard[data.bm25.queries])).sum()),
            "instructed_functions": int((data.shard != HELD_OUT).sum()),
            "steps": figures["step"],
            "groups": batches["groups"],
            "documents": batches["negatives"] + 1,
            "pairs": pairs_trained(self._run_folder, figures["step"], plan),
            "hours": figures["seconds"] / 3600,
            "hardware": f"{torch.get_num_threads()} CPU threads ({platform.machine()})",
            "seed": plan["seed"],
            "pointwise": plan["run"]["pointwise"],
            "contrast": plan["run"]["contrast"],
            "probes": plan["run"]["probes"],
            "teacher": plan["run"]["teacher"] if data.teacher is not None else 0.0,
            "hard_start": batches["hard_start"],
            "hard_end": batches["hard_end"],
            "sources": "BM25's and MiniLM's best hundred" if data.minilm is not None else "BM25's best hundred",
            "cut": batches["tokens"],
            "held_out": ", ".join(held),
            "eval_queries": plan["evaluation"]["queries"],
            "eval_depth": plan["evaluation"]["depth"],
            **{key: figures[key] for key in ("bm25", "bm25_reranked", "minilm", "minilm_reranked")},
            "followed": figures.get("followed", 0.5),
            "test": [],
            "settings": plan,
            "begun": earlier_runs(self._run_folder),
            "stages": [stage for stage in stages(self._run_folder) if stage["step"] < figures["step"]],
        }


def merit(figures: Mapping[str, float]) -> float:
    """Say how good weights are on held-out packages: both reranked lists' nDCG@10, and instructions that were followed.

    Args:
        figures: A row of `evaluation.jsonl`.
    """
    return figures["bm25_reranked"] + figures["minilm_reranked"] + figures.get("followed", 0.0)


def token_rarity(data: TrainingData, sample: int = 20_000) -> torch.Tensor:
    """Count in how many training functions each token stands, (vocabulary,) rarity."""
    counts = np.zeros(len(data.tokenizer))
    places = np.flatnonzero(data.shard != HELD_OUT)[:: max(1, len(data.shard) // sample)]
    for place in places:
        counts[list(set(data.documents[int(place)]) | set(data.queries[int(place)]))] += 1
    return rarity(counts, len(places))
