"""Ray, attached to or started; and the two stages behind it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rerank_eval.config.schema import BM25, RerankerConfig, RetrieverConfig, WorkersConfig
from rerank_eval.errors import ConfigError, DeviceError
from rerank_eval.models.embedders import embedding_engine
from rerank_eval.models.instruction_sets import InstructionSet
from rerank_eval.models.reranker import Scorer
from rerank_eval.models.resolve import ModelRef
from rerank_eval.models.retriever import Backend, load_backend
from rerank_eval.models.scorers import Prompting
from rerank_eval.workers.messages import Spec
from rerank_eval.workers.pool import Pool, PoolSettings

logger = logging.getLogger(__name__)

_SHARED_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT")
"""What the driver found out, or was told, about the hub holds for its workers."""

_LOCAL_STORE_BYTES = 1 << 30
"""Object store of a cluster of our own: blocks under way are some megabytes each."""


class Cluster:
    """A Ray cluster and what of it a run uses; one pool at a time, so that a new model finds the devices free.

    Args:
        config: The config's `workers`.
        device: The config's `device`.
    """

    def __init__(self, config: WorkersConfig, device: str) -> None:
        self.config = config
        self._ray = _connect(config)
        self._pool: Pool | None = None
        resources = self._ray.cluster_resources()
        gpus, cpus = float(resources.get("GPU", 0)), float(resources.get("CPU", 0))
        self.on_gpus = device.startswith("cuda") or (device == "auto" and gpus > 0)
        # An actor sees only the GPUs that Ray gave it, so cuda:1 of a machine has no meaning here.
        self.device = "cuda" if self.on_gpus else device
        per, there = (config.gpus_per_worker, gpus) if self.on_gpus else (config.cpus_per_worker, cpus)
        self.workers = int(there // per) if config.num_workers == "auto" else config.num_workers
        if self.workers < 1:
            raise DeviceError(
                f"workers: the cluster has {gpus:g} GPU(s) and {cpus:g} CPU(s), and a worker needs {self.needs}; start "
                "nodes first, or set workers.num_workers where an autoscaler brings them"
            )

    @property
    def needs(self) -> str:
        """What a worker needs, for people."""
        gpus = f"{self.config.gpus_per_worker:g} GPU and " if self.on_gpus else ""
        return f"{gpus}{self.config.cpus_per_worker} CPU"

    def pool(self, spec: Spec) -> Pool:
        """Start workers with a model; those of the model before are ended."""
        self.end_pool()
        self._pool = self.new_pool(spec, self.workers)
        return self._pool

    def new_pool(self, spec: Spec, workers: int) -> Pool:
        """Start workers beside those that there are; the caller ends them.

        Args:
            spec: How they get their model.
            workers: How many.
        """
        from rerank_eval.workers.actor import Worker

        environment = {name: os.environ[name] for name in _SHARED_VARIABLES if name in os.environ}
        options = {
            "num_cpus": self.config.cpus_per_worker,
            "num_gpus": self.config.gpus_per_worker if self.on_gpus else 0,
            "scheduling_strategy": "SPREAD",
            # A lost worker is replaced by the pool, which knows whether it is worth it.
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        actor = self._ray.remote(Worker).options(**options)
        settings = PoolSettings(workers, block_tokens=self.config.block_tokens, hang_seconds=self.config.hang_seconds)
        return Pool(spec, settings, lambda _: actor.remote(self.config.cpus_per_worker, environment), self.needs)

    def end_pool(self) -> None:
        """End the workers that there are."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def scorer(self, config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> Scorer:
        """Load a reranker in every worker; see `load_scorer`."""
        from rerank_eval.workers.scoring import RayScorer, ScorerSpec

        spec = ScorerSpec(config, portable(ref), self.device, prompting.recipe)
        return RayScorer(self.pool(spec), config, ref, prompting)

    def backend(
        self, config: RetrieverConfig, ref: ModelRef, results_dir: Path | None, instructions: InstructionSet | None
    ) -> Backend:
        """Load a retriever in every worker; see `load_backend`. BM25 stays in this process."""
        from rerank_eval.workers.retrieval import encoder_backend, packed_backend

        if config.model == BM25:
            self.end_pool()
            return load_backend(config, ref, "cpu", results_dir, instructions)
        make = packed_backend if embedding_engine(config, ref) == "packed" else encoder_backend
        return make(self, config, portable(ref), results_dir, instructions)

    def close(self) -> None:
        """End the workers and leave the cluster; one of our own ends with it."""
        self.end_pool()
        self._ray.shutdown()


@contextmanager
def open_cluster(config: WorkersConfig | None, device: str) -> Iterator[Cluster | None]:
    """Attach to a cluster for as long as the block runs, or yield None where the config has no `workers`.

    Args:
        config: The config's `workers`.
        device: The config's `device`.

    Raises:
        ConfigError: ray is not installed, or the cluster is not there.
        DeviceError: It has not what a worker needs.
    """
    if config is None:
        yield None
        return
    cluster = Cluster(config, device)
    logger.info("%d worker(s), each with %s", cluster.workers, cluster.needs)
    try:
        yield cluster
    finally:
        cluster.close()


def _connect(config: WorkersConfig) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read by ray when it starts a cluster: tell nobody
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError(f"workers: {error.name} is missing: pip install 'rerank-eval[ray]'") from None
    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    own = {"include_dashboard": False, "object_store_memory": _LOCAL_STORE_BYTES}
    try:
        if config.address == "local":
            ray.init(address="local", **own, **quiet)
        elif config.address == "auto":
            _attach_or_start(ray, own, quiet)
        else:
            ray.init(address=config.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"workers.address: no cluster at {config.address!r} ({reason})") from error
    return ray


def _attach_or_start(ray: Any, own: dict[str, Any], quiet: dict[str, Any]) -> None:
    """Attach to the cluster that RAY_ADDRESS names or that runs on this machine; else start one."""
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        if os.environ.get("RAY_ADDRESS"):
            raise
        ray.init(address="local", **own, **quiet)


def portable(ref: ModelRef) -> ModelRef:
    """Return a model whose folder, if it has one, is named from the root: workers run in other folders."""
    import dataclasses

    folder = Path(ref.source)
    return dataclasses.replace(ref, source=str(folder.resolve())) if folder.is_dir() else ref
