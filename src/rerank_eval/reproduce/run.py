"""The gate: runs what a published table needs, retriever first, and checks every cell.

The retriever is checked task by task before any reranking, since a wrong retriever spoils all that comes after.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from rerank_eval.config import LoadedConfig, RunConfig
from rerank_eval.errors import ConfigError, ReproductionError, RerankEvalError
from rerank_eval.files import at_home, write_json
from rerank_eval.metrics.registry import two_digits
from rerank_eval.names import did_you_mean, some
from rerank_eval.reproduce import table as reproduction
from rerank_eval.reproduce.aggregates import averaged, main_scores
from rerank_eval.reproduce.choice import Filter
from rerank_eval.reproduce.filters import filters_of, label
from rerank_eval.reproduce.mteb_results import ResultsFolder, models_in, read_results
from rerank_eval.reproduce.published import MODEL_CARD, Published, load_per_task, load_published
from rerank_eval.reproduce.verdicts import (
    CLOSE,
    NOT_RUN,
    OFF,
    PUBLISHED_FILE,
    REPRODUCED,
    STEM,
    Rules,
    Verdict,
    Verdicts,
)
from rerank_eval.session.choice import read_config
from rerank_eval.shipped import config_names
from rerank_eval.tasks.suites import load_suites
from rerank_eval.typed import command

if TYPE_CHECKING:
    from rerank_eval.session.start import Session

RESULTS = Path("results")
_SHOWN = 3


@dataclass(frozen=True)
class ReproductionRequest:
    """What was asked for on the command line.

    Attributes:
        config: The config, or None for the one of the published table's name.
        results: Results folder, or None for the config's.
        models: Names of the table's rows; empty for all.
        suites: Names of its columns; empty for all.
        json: Further file for everything as JSON, or None.
        only_judge: Run nothing.
        keep_going: Go on after a wrong retriever or a model that cannot be run.
        strict: Fail also where there is no score.
        overrides: `--set` arguments.
        published: The published table, by name or file.
    """

    config: Path | None = None
    results: Path | None = None
    models: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    json: Path | None = None
    only_judge: bool = False
    keep_going: bool = False
    strict: bool = False
    overrides: tuple[str, ...] = ()
    published: str = MODEL_CARD

    @property
    def default_config(self) -> Path | None:
        """The config of the table's name, or None where none is shipped."""
        return Path(self.published) if self.published in config_names() else None


def reproduce(request: ReproductionRequest, console: Console) -> None:
    """Run what is missing unless asked not to, check, print and write the table.

    Raises:
        ConfigError: A name is unknown, or the folder to check holds nothing of the table.
        ReproductionError: A cell is off; with `strict`, also where one has no score.
        RerankEvalError: A run failed; what was done before stays.
    """
    published = load_published(request.published)
    per_task = load_per_task(published, request.published)
    rules = Rules(published, per_task, load_suites(), _stem(request.published))
    models = _chosen(request.models, [model.name for model in published.models], "--model")
    suites = _chosen(request.suites, published.suites, "--suite")
    gate = Gate(rules, models, suites, console)
    failed: RerankEvalError | None = None
    if request.only_judge:
        root = at_home(request.results or RESULTS)
        filters = filters_of(published, request.config, request.overrides, default=request.default_config)
        checked = gate.check(root, filters)
        if all(cell.verdict == NOT_RUN for cell in checked.cells) and not checked.set_aside:
            raise ConfigError(_nothing(root, checked, gate))
        ours = root == RESULTS or (root / "mteb").is_dir()
        folder = root if ours else RESULTS  # somebody else's results are read, not written to
    else:
        loaded = read_config(_config(request, published), suites, request.overrides, request.results)
        folder = at_home(loaded.base.results_dir)
        checked, failed = gate.run(loaded, folder, keep_going=request.keep_going)
    gate.show(checked, folder, request.json)
    if failed is not None:
        raise failed
    _fail(checked, strict=request.strict)


@dataclass(frozen=True)
class Gate:
    """Checks results, and runs what is to be checked.

    Attributes:
        rules: The table and how results are compared with it.
        models: Rows to check.
        suites: Columns to check.
        console: For what the user asked for.
    """

    rules: Rules
    models: tuple[str, ...]
    suites: tuple[str, ...]
    console: Console

    @property
    def published(self) -> Published:
        """The table."""
        return self.rules.published

    def check(self, root: Path, filters: Mapping[str, Sequence[Filter]], models: Sequence[str] = ()) -> Verdicts:
        """Check a folder.

        Args:
            root: The folder.
            filters: Hub name -> which results count.
            models: Rows to check instead of those asked for.
        """
        names = models or self.models
        return self.rules.check(self._read(root, names), filters, names, self.suites)

    def _read(self, root: Path, models: Sequence[str]) -> ResultsFolder:
        hubs = [model.hub for model in self.published.models if model.name in models]
        tasks = self.rules.tasks(self.suites)
        return averaged(read_results(root, hubs, main_scores(tasks.values())), tasks.values())

    def run(
        self, loaded: LoadedConfig, results_dir: Path, *, keep_going: bool
    ) -> tuple[Verdicts, RerankEvalError | None]:
        """Run what is missing: the retriever, its verdicts, then one reranker after the other.

        Args:
            loaded: The config.
            results_dir: Its results folder.
            keep_going: Go on after a wrong retriever or a reranker that cannot be run.

        Returns:
            The verdicts, and the first error that was passed over.

        Raises:
            ReproductionError: The retriever is off, or is not the published one.
            RerankEvalError: A run failed.
        """
        from rerank_eval.models.needs import hub_models
        from rerank_eval.session.start import start  # checking needs none of what a run imports

        labels = {label(model.hub) for model in self.published.models if model.name in self.models}
        pairs = [run for run in loaded.runs if run.reranker is not None and label(run.reranker.model) in labels]
        alone = [run for run in loaded.runs if label(run.retriever.model) in labels]
        if not pairs and not alone:
            raise ConfigError(f"{loaded.path}: has no run of {', '.join(self.models)}")
        identities: dict[str, frozenset[str]] = {}
        first = [run.model_copy(update={"reranker": None}) for run in [*pairs, *alone]]
        chosen = first if keep_going else [*first, *pairs]  # what cannot be run is passed over then
        cut = dataclasses.replace(loaded, runs=tuple(chosen), variants=({},) * len(chosen))
        if len(self.models) < len(self.published.models):
            named = dict.fromkeys(name for run in [*pairs, *alone] for name in hub_models(run))
            cut = dataclasses.replace(cut, given_models=tuple(named))
        session = start(cut, self.console)
        self._run(session, first, identities)
        self._check_retriever(results_dir, self._exactly(identities), first, keep_going=keep_going)
        failed: RerankEvalError | None = None
        for run in pairs:
            try:
                self._run(session, [run], identities)
            except RerankEvalError as error:
                if not keep_going:
                    raise
                failed = failed or error
                self.console.print(f"passed over: {error}", markup=False)
        session.tracker.finish()
        return self.check(results_dir, self._exactly(identities)), failed

    def _exactly(self, identities: Mapping[str, frozenset[str]]) -> dict[str, list[Filter]]:
        """Ask for the rows of this run and no others, by label."""
        wanted = {model.hub: identities.get(label(model.hub), frozenset()) for model in self.published.models}
        return {hub: [Filter(identities=digests, decisive=True)] for hub, digests in wanted.items()}

    def _run(self, session: Session, runs: Sequence[RunConfig], identities: dict[str, frozenset[str]]) -> None:
        """Run some of a config's runs, and note the identities of their rows under the models' labels."""
        plan, _ = session.run(runs)
        for row in plan.rows:
            identities[row.ref.label] = identities.get(row.ref.label, frozenset()) | {row.digest}

    def _check_retriever(
        self, results_dir: Path, filters: Mapping[str, Sequence[Filter]], runs: Sequence[RunConfig], *, keep_going: bool
    ) -> None:
        [model] = [model for model in self.published.models if model.hub == self.published.retriever]
        others = sorted({run.retriever.model for run in runs if label(run.retriever.model) != label(model.hub)})
        checked = self.check(results_dir, filters, [model.name])
        verdicts = [*checked.tasks, *checked.cells]
        wrong = [one for one in verdicts if _wrong(one)]
        if others:
            problem = f"the published candidates are {model.hub}'s, the config's are {others[0]}'s"
        elif wrong:
            first = wrong[0]
            shown = "no score" if first.ours is None else two_digits(first.ours)
            names = ", ".join(one.name for one in wrong[:_SHOWN])
            problem = (
                f"{model.name} does not retrieve as published: {_count(checked.tasks, 'task')} and "
                f"{_count(checked.cells, 'suite')} do not fit ({names}{', ...' if len(wrong) > _SHOWN else ''}; "
                f"{first.name}: {shown}, published {two_digits(first.published)})"
            )
        else:
            close = sum(one.verdict == CLOSE for one in verdicts)
            closely = f", {close} of these scores only closely" if close else ""
            fitting = checked.tasks or checked.cells  # no score of a task need be published
            noun = "task" if checked.tasks else "suite"
            self.console.print(f"retriever: {len(fitting)} {noun}(s) fit the published scores{closely}")
            return
        if not keep_going:
            if not others:
                self.console.print(reproduction.to_rich(checked))
            raise ReproductionError(f"{problem}; nothing was reranked; go on all the same with --keep-going")
        self.console.print(f"passed over: {problem}", markup=False)

    def show(self, checked: Verdicts, folder: Path, json_file: Path | None) -> None:
        """Print the table, and write it in three formats.

        Args:
            checked: The verdicts.
            folder: Where the files go.
            json_file: A further JSON file, or None.
        """
        self.console.print()
        self.console.print(reproduction.to_rich(checked))
        written = reproduction.write_all(checked, folder)
        if json_file is not None:
            write_json(json_file, reproduction.as_data(checked))
            written.append(json_file)
        self.console.print(reproduction.summary(checked), markup=False)
        self.console.print("written: " + ", ".join(str(path) for path in written), markup=False)


def _config(request: ReproductionRequest, published: Published) -> Path:
    """Return the config to run.

    Raises:
        ConfigError: There is none, or no run can be what was published.
    """
    if published.retriever is None:
        raise ConfigError(
            f"--published {request.published}: means over several retrievers, so no run reproduces them; put what is "
            "there beside them with --only-judge"
        )
    config = request.config or request.default_config
    if config is None:
        raise ConfigError(
            f"--published {request.published}: has no config of its own; give --config with runs of its models on "
            f"{published.retriever}'s top {published.top_k}, or --only-judge"
        )
    return config


def _stem(published: str) -> str:
    """Return the name of the files that verdicts are written to; another table's do not overwrite the model card's."""
    return STEM if published == MODEL_CARD else f"{STEM}-{Path(published).stem}"


def _chosen(names: Sequence[str], valid: Sequence[str], option: str) -> tuple[str, ...]:
    wanted = {name.lower(): name for name in valid}
    for name in names:
        if name.lower() not in wanted:
            raise ConfigError(f"{option} {name!r}: not in the published table; {did_you_mean(name, valid)}")
    chosen = {wanted[name.lower()] for name in names}
    return tuple(name for name in valid if not names or name in chosen)


def _wrong(verdict: Verdict) -> bool:
    return verdict.verdict not in {REPRODUCED, PUBLISHED_FILE, CLOSE}


def _count(verdicts: Sequence[Verdict], noun: str) -> str:
    return f"{sum(map(_wrong, verdicts))} of {len(verdicts)} {noun}{'' if len(verdicts) == 1 else 's'}"


def _nothing(root: Path, checked: Verdicts, gate: Gate) -> str:
    if checked.problems:
        return f"{root}: no usable result of the table; the first of {len(checked.problems)}: {checked.problems[0]}"
    published = gate.published
    hubs = {model.hub for model in published.models if model.name in gate.models}
    others = [name for name in models_in(root) if name not in hubs]
    if others:
        known = {model.hub for model in published.models}
        what = "what was asked for is" if known & set(others) else f"the table of {published.name} has rows for"
        return f"{root}: holds results of {some(others)}; {what} {', '.join(gate.models)} alone, so nothing is judged"
    return (
        f"{root}: no result of the table's models in mteb's layout (<org__model>/<revision>/<Task>.json); run "
        f"`{command('reproduce')}` first, or name another folder with --results"
    )


def _fail(checked: Verdicts, *, strict: bool) -> None:
    off = [cell for cell in checked.cells if cell.verdict == OFF]
    if off:
        names = ", ".join(f"{cell.model} on {cell.name}" for cell in off[:_SHOWN])
        raise ReproductionError(
            f"{len(off)} of {len(checked.cells)} cells are off the published numbers: {names}"
            f"{', ...' if len(off) > _SHOWN else ''}; the footnotes say what differs"
        )
    lacking = [cell for cell in checked.cells if cell.ours is None]
    if strict and lacking:
        raise ReproductionError(
            f"{len(lacking)} of {len(checked.cells)} cells have no score, and --strict asks for all of them"
        )
