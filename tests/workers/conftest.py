"""A real Ray cluster of three nodes with one CPU each, on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray.cluster_utils import Cluster as Nodes

from rerank_eval.config.schema import WorkersConfig
from rerank_eval.workers.cluster import Cluster

STORE = 100_000_000


def start_nodes(count: int) -> Nodes:
    """Start a head and further nodes, and attach to them."""
    nodes = Nodes(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False},
    )
    for _ in range(count - 1):
        nodes.add_node(num_cpus=1, object_store_memory=STORE)
    ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
    nodes.wait_for_nodes()
    return nodes


def stop_nodes(nodes: Nodes) -> None:
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[Nodes]:
    """Three nodes for a module's tests; they leave them as they were."""
    nodes = start_nodes(3)
    yield nodes
    stop_nodes(nodes)


@pytest.fixture
def own_nodes() -> Iterator[Nodes]:
    """Three nodes that a test may kill."""
    nodes = start_nodes(3)
    yield nodes
    stop_nodes(nodes)


@pytest.fixture
def workers() -> Iterator[Any]:
    """Make clusters of ours on the nodes that there are, one at a time, and end their workers afterwards."""
    made: list[Cluster] = []

    def make(**settings: Any) -> Cluster:
        for cluster in made:
            cluster.end_pool()
        made.append(Cluster(WorkersConfig(**settings), "cpu"))
        return made[-1]

    yield make
    for cluster in made:
        cluster.end_pool()
