"""Ray, attached to or started; and the two stages behind it."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rerank_eval.config.schema import BM25, RetrieverConfig, WorkersConfig
from rerank_eval.engine.interface import Engine
from rerank_eval.errors import ConfigError, DeviceError
from rerank_eval.models.instruction_sets import InstructionSet
from rerank_eval.models.ref import ModelRef
from rerank_eval.rerankers.family import Prepared
from rerank_eval.retrievers.embedders import embedding_engine
from rerank_eval.retrievers.family import load_backend
from rerank_eval.retrievers.retriever import Backend
from rerank_eval.workers.messages import Spec
from rerank_eval.workers.pool import Pool, PoolSettings

logger = logging.getLogger(__name__)

_SHARED_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT")
"""What the driver found out, or was told, about the hub holds for its workers."""

_LOCAL_STORE_BYTES = 1 << 30
"""Object store of a cluster of our own: blocks under way are some megabytes each."""

_CONNECT_SECONDS = 10.0

_NOTE = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"


class Cluster:
    """A Ray cluster and what of it a run uses; one pool at a time, so that a new model finds the devices free."""

    def __init__(self, config: WorkersConfig, device: str) -> None:
        self.config = config
        self._ray = _connect(config)
        self._pool: Pool | None = None
        resources = self._ray.cluster_resources()
        gpus, cpus = float(resources.get("GPU", 0)), float(resources.get("CPU", 0))
        self.on_gpus = device.startswith("cuda") or (device == "auto" and gpus > 0)
        self._hold_room(device, cpus)
        # An actor sees only the GPUs that Ray gave it, so cuda:1 of a machine has no meaning here.
        self.device = "cuda" if self.on_gpus else device
        per, there = (config.gpus_per_worker, gpus) if self.on_gpus else (config.cpus_per_worker, cpus)
        self.workers = int(there // per) if config.num_workers == "auto" else config.num_workers
        if self.workers < 1:
            raise DeviceError(
                f"workers: the cluster has {gpus:g} GPU(s) and {cpus:g} CPU(s), and a worker needs {self.needs}; start "
                "nodes first, or set workers.num_workers where an autoscaler brings them"
            )

    def _hold_room(self, device: str, cpus: float) -> None:
        """Refuse to guess a device for hosts that are still to come: workers would get no GPUs of their own.

        Raises:
            ConfigError: The device is `auto`, no GPU is there yet, and the workers do not fit what is there.
        """
        wanted = self.config.num_workers
        if device == "auto" and not self.on_gpus and wanted != "auto" and wanted * self.config.cpus_per_worker > cpus:
            raise ConfigError(
                f"workers.num_workers: {wanted} workers do not fit the cluster's {cpus:g} CPU(s), and it has no GPU "
                "yet; where an autoscaler brings hosts, say of which kind: --set device=cuda (or cpu)"
            )

    @property
    def needs(self) -> str:
        """What a worker needs, for people."""
        gpus = f"{self.config.gpus_per_worker:g} GPU and " if self.on_gpus else ""
        return f"{gpus}{self.config.cpus_per_worker} CPU"

    def pool(self, spec: Spec) -> Pool:
        """Start workers with a model; those of the model before are ended."""
        self.end_pool()
        try:
            self._pool = self.new_pool(spec, self.workers)
        except ModuleNotFoundError as error:  # through ray://, where the cluster's side reads what is sent
            raise ConfigError(
                f"workers: the cluster's hosts lack {error.name}; install the same rerank-eval[ray] there as here"
            ) from error
        return self._pool

    def new_pool(self, spec: Spec, workers: int) -> Pool:
        """Start so many workers beside those that there are; the caller ends them."""
        from rerank_eval.workers.actor import Worker

        environment = {name: os.environ[name] for name in _SHARED_VARIABLES if name in os.environ}
        if not self.on_gpus:
            # Ray hides the GPUs of a host from nobody who asked for none, and `auto` would take the first.
            environment["CUDA_VISIBLE_DEVICES"] = ""
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

    @property
    def devices(self) -> list[dict[str, Any]]:
        """What the workers at hand compute on, for a manifest; empty where this process computes, as with BM25."""
        return self._pool.devices if self._pool is not None else []

    def end_pool(self) -> None:
        """End the workers that there are."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def engine(self, prepared: Prepared) -> Engine:
        """Load a reranker in every worker; see `load_reranking_engine`."""
        from rerank_eval.workers.scoring import RayEngine, RerankerSpec

        spec = RerankerSpec(prepared.config, portable(prepared.ref), self.device, prepared.prompting.recipe)
        return RayEngine(self.pool(spec), prepared)

    def backend(
        self, config: RetrieverConfig, ref: ModelRef, results_dir: Path | None, instructions: InstructionSet | None
    ) -> Backend:
        """Load a retriever in every worker; see `load_backend`. BM25, code, servers and files stay here."""
        from rerank_eval.workers.remote_encoder import EncoderSpec, RemoteDenseBackend
        from rerank_eval.workers.retrieval import EmbedderSpec, RemoteEmbedder, packed_backend

        if config.model == BM25 or ref.origin in {"python", "server", "given"}:
            self.end_pool()
            return load_backend(config, ref, "cpu", results_dir, instructions)
        packed, ref = embedding_engine(config, ref) == "packed", portable(ref)
        if packed:
            embedder = RemoteEmbedder(self.pool(EmbedderSpec(config, ref, self.device)), self.device)
            return packed_backend(embedder, config, ref, results_dir, instructions)
        return RemoteDenseBackend(self.pool(EncoderSpec(config, ref, self.device, instructions)))

    def close(self) -> None:
        """End the workers and leave the cluster; one of our own ends with it."""
        self.end_pool()
        self._ray.shutdown()


@contextmanager
def open_cluster(config: WorkersConfig | None, device: str) -> Iterator[Cluster | None]:
    """Attach to a cluster for as long as the block runs, or yield None where the config has no `workers`.

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
    address = _address(config.address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": _LOCAL_STORE_BYTES}
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"workers.address: no cluster at {address!r} ({reason}); one that was started with a token wants "
            "RAY_AUTH_MODE=token here as well"
        ) from error
    finally:
        # Ray puts its own in place, which prints a stack and loses the block under way and the exit code.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)
    return ray


def _address(asked: str) -> str:
    """Return what Ray is told: an address, `auto` for the cluster that `ray start` began here, `local` for a new one.

    What is named is tried first, as Ray tries for minutes. Where it is not named, Ray alone finds the cluster's token.

    Raises:
        ConfigError: Nothing listens there.
    """
    if asked != "auto":
        where, named = "workers.address", asked
    elif os.environ.get("RAY_ADDRESS", "auto") not in {"", "auto"}:
        where, named = "RAY_ADDRESS", os.environ["RAY_ADDRESS"]
    else:
        # What `ray start` leaves behind, also after a cluster that was killed.
        noted = _NOTE.read_text(encoding="utf-8").strip() if _NOTE.is_file() else ""
        return "auto" if noted and _listens(noted) else "local"
    if named != "local" and not _listens(named):
        raise ConfigError(f"{where}: no cluster at {named!r}; start one with `ray start --head`, or leave the key out")
    return named


def _listens(address: str) -> bool:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def portable(ref: ModelRef) -> ModelRef:
    """Return a model whose folder, if it has one, is named from the root: workers run in other folders."""
    folder = Path(ref.source)
    return dataclasses.replace(ref, source=str(folder.resolve())) if folder.is_dir() else ref
