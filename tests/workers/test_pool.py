"""Workers without a model on three real nodes: order, deaths, hangs, poison. What models add is in test_same_bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rerank_eval.config.schema import WorkersConfig
from rerank_eval.errors import ConfigError, DeviceError, ModelError
from rerank_eval.workers.cluster import Cluster
from rerank_eval.workers.pool import Pool
from rerank_eval.workers.stream import stream
from tests.workers.handlers import DigesterSpec, Item, digests, name, weigh

pytestmark = pytest.mark.usefixtures("three_nodes")

Make = Callable[..., Cluster]


def through(pool: Pool, items: Sequence[Item]) -> Iterator[Any]:
    return stream(pool, items, weigh=weigh, name=name)


def texts(number: int, seconds: float = 0.0) -> list[Item]:
    return [Item(f"text {i:04} " + "x" * (i * 37 % 50), seconds) for i in range(number)]


def kill(pool: Pool, number: int, how: int = signal.SIGKILL) -> int:
    loaded = pool.members[number].loaded
    assert loaded is not None
    os.kill(loaded.pid, how)
    return loaded.pid


def test_order_is_kept_by_three_workers_on_three_nodes_and_their_work_adds_up(workers: Make) -> None:
    cluster = workers(block_tokens=256)
    assert cluster.workers == 3
    pool = cluster.pool(DigesterSpec())
    while not all(member.loaded for member in pool.members):  # else the first may do it all
        pool.wait()
    items = texts(300, 0.005)
    assert list(through(pool, items)) == digests(items)
    assert list(through(pool, [])) == []
    assert list(through(pool, items[:1])) == digests(items[:1])
    assert pool.work.tolist() == [301]
    assert len({member.loaded.node for member in pool.members if member.loaded}) == 3
    assert isinstance(pool.ask("process"), int)
    assert pool.ask("variable", "CUDA_VISIBLE_DEVICES") == ""  # a worker without a GPU sees none


def test_workers_killed_in_mid_run_are_replaced_and_their_blocks_done_again(workers: Make) -> None:
    pool = workers(num_workers=2, block_tokens=256).pool(DigesterSpec())
    items = texts(400, 0.005)
    results = through(pool, items)
    found = [next(results)]
    victims = {member.loaded.pid for member in pool.members if member.loaded}
    for number, member in enumerate(pool.members):
        if member.loaded:
            kill(pool, number)
    found += results
    assert found == digests(items)
    assert sum(tally.lost for tally in pool.tallies) == len(victims)
    assert not victims & {member.loaded.pid for member in pool.members if member.loaded}


@pytest.mark.slow
def test_a_worker_that_stands_still_is_replaced(workers: Make) -> None:
    pool = workers(num_workers=2, block_tokens=256, hang_seconds=1.5).pool(DigesterSpec())
    items = texts(400, 0.005)
    results = through(pool, items)
    found = [next(results)]
    [number] = [place for place, member in enumerate(pool.members) if member.loaded][:1]
    kill(pool, number, signal.SIGSTOP)
    found += results
    assert found == digests(items)
    assert sum(tally.lost for tally in pool.tallies) == 1


@pytest.mark.slow
def test_an_item_that_workers_die_of_is_named_and_what_came_before_it_is_kept(workers: Make, tmp_path: Path) -> None:
    pool = workers(num_workers=2, block_tokens=256).pool(DigesterSpec())
    items = texts(60)
    items[40] = Item("poison", act="die", until=str(tmp_path / "deaths"))
    results = through(pool, items)
    found = []
    with pytest.raises(DeviceError, match=r"^item 'poison': 3 workers were lost with it, one after the other"):
        found.extend(results)
    assert found == digests(items)[: len(found)]
    assert len(found) >= 20
    assert list(through(pool, texts(10))) == digests(texts(10))  # the pool goes on


@pytest.mark.slow
@pytest.mark.parametrize("act", ["die", "raise"])
def test_a_block_that_fails_twice_is_done_in_the_end(workers: Make, tmp_path: Path, act: str) -> None:
    pool = workers(num_workers=2, block_tokens=256).pool(DigesterSpec())
    items = texts(60)
    items[7] = Item("twice", act=act, until=str(tmp_path / "times"), times=2)
    assert list(through(pool, items)) == digests(items)
    assert sum(tally.lost for tally in pool.tallies) == 2


def test_an_error_that_a_user_can_mend_is_the_same_error_here(workers: Make, tmp_path: Path) -> None:
    pool = workers(num_workers=1, block_tokens=256).pool(DigesterSpec())
    items = [*texts(5), Item("bad", act="refuse", until=str(tmp_path / "times"))]
    with pytest.raises(ModelError, match=r"^bad: not to be scored$"):
        list(through(pool, items))


@pytest.mark.slow
def test_an_error_while_loading_is_told_and_deaths_end_after_three(workers: Make, tmp_path: Path) -> None:
    pool = workers(num_workers=1).pool(DigesterSpec("refuse", str(tmp_path / "refused")))
    with pytest.raises(ModelError, match=r"^model.safetensors: not to be scored$"):
        list(through(pool, texts(5)))
    pool = workers(num_workers=1).pool(DigesterSpec("die", str(tmp_path / "died")))
    with pytest.raises(DeviceError, match="3 in a row died while they loaded the model"):
        list(through(pool, texts(5)))
    pool = workers(num_workers=1).pool(DigesterSpec("die", str(tmp_path / "died twice"), times=2))
    assert list(through(pool, texts(5))) == digests(texts(5))


@pytest.mark.slow
def test_leaving_a_stream_leaves_no_answer_to_the_next(workers: Make) -> None:
    pool = workers(num_workers=1, block_tokens=256).pool(DigesterSpec())
    results = through(pool, texts(100, 0.01))
    next(results)
    results.close()  # type: ignore[attr-defined] # a generator
    assert list(through(pool, texts(30)))[::-1] == digests(texts(30))[::-1]


@pytest.mark.slow
def test_a_host_that_cannot_load_what_others_have_loaded_is_tried_again(workers: Make, tmp_path: Path) -> None:
    pool = workers(num_workers=1, block_tokens=256).pool(
        DigesterSpec("refuse", str(tmp_path / "refused"), times=2, spared=1)
    )
    items = texts(60, 0.005)
    results = through(pool, items)
    found = [next(results)]
    kill(pool, 0)
    found += results
    assert found == digests(items)
    assert sum(tally.lost for tally in pool.tallies) == 3  # the one that was killed, and two that could not load


@pytest.mark.slow
def test_a_worker_whose_successors_cannot_load_is_given_up_and_the_others_go_on(workers: Make, tmp_path: Path) -> None:
    pool = workers(num_workers=2, block_tokens=256).pool(DigesterSpec("refuse", str(tmp_path / "refused"), spared=2))
    while not all(member.loaded for member in pool.members):
        pool.wait()
    items = texts(2000, 0.01)
    results = through(pool, items)
    found = [next(results)]
    kill(pool, 1)
    found += results
    assert found == digests(items)
    assert [member.number for member in pool.members] == [0]
    assert list(through(pool, texts(10))) == digests(texts(10))


@pytest.mark.slow
def test_a_worker_that_died_between_two_streams_is_replaced_when_one_is_asked(workers: Make) -> None:
    pool = workers(num_workers=2, block_tokens=256).pool(DigesterSpec())
    while not all(member.loaded for member in pool.members):
        pool.wait()
    killed = {kill(pool, 0), kill(pool, 1)}
    assert pool.ask("process") not in killed
    assert list(through(pool, texts(30))) == digests(texts(30))


def test_a_device_is_not_guessed_for_hosts_that_are_still_to_come() -> None:
    settings = WorkersConfig(num_workers=64)
    with pytest.raises(ConfigError, match=r"64 workers do not fit the cluster's 3 CPU.*device=cuda"):
        Cluster(settings, "auto")
    assert Cluster(settings, "cuda").on_gpus
    assert not Cluster(settings, "cpu").on_gpus
    assert Cluster(WorkersConfig(num_workers=3), "auto").device == "auto"
