"""Three nodes, one killed in mid-run: every pair is right in the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ray.cluster_utils import Cluster as Nodes

from rerank_eval.config import RerankerConfig
from rerank_eval.workers.cluster import Cluster
from tests.workers.test_same_bits import assert_same, groups, local, pool_of, remote

Make = Callable[..., Cluster]


@pytest.mark.slow
def test_scores_are_the_same_when_one_node_of_three_is_lost(own_nodes: Nodes, workers: Make) -> None:
    config = RerankerConfig()
    work = groups(150)
    expected = list(local(config).score_groups(work))
    scorer = remote(workers(num_workers=3, block_tokens=2000), config)
    pool = pool_of(scorer)

    while not all(member.loaded for member in pool.members):  # so that the node that goes has a worker
        pool.wait()
    doomed = next(iter(own_nodes.worker_nodes))
    at_it = [member for member in pool.members if member.loaded and member.loaded.node == doomed.node_id]
    assert len(at_it) == 1
    results = scorer.score_groups(work)
    found = [next(results) for _ in range(20)]
    own_nodes.remove_node(doomed, allow_graceful=False)
    found += results
    assert_same(found, expected)
    assert [tally.lost for tally in pool.tallies].count(0) == 2
    assert len(own_nodes.list_all_nodes()) == 2
