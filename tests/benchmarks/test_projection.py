"""Tests that projected bytes equal those of states that are packed and sent."""

import pytest
import torch
import torch.distributed as dist

import ncfast
from ncfast import _ranks, distributed
from ncfast.benchmarks import projection
from ncfast.ops import states


def moments(classes, dim):
    labels = torch.arange(2 * classes) % classes
    return ncfast.class_moments(torch.randn(2 * classes, dim), labels, num_classes=classes)


@pytest.mark.parametrize(("classes", "dim"), [(1, 1), (3, 5), (17, 8)])
def test_a_state_weighs_what_is_packed(classes, dim):
    packed = states.pack(moments(classes, dim))
    assert projection.state_bytes(classes, dim) == packed.numel() * packed.element_size()


@pytest.fixture
def received(monkeypatch):
    """Bytes that one rank receives in its collectives; all ranks are copies of it."""
    counted = [0]

    def all_to_all(output, own, group=None, async_op=False):
        world = len(output)
        output.copy_(own)
        counted[0] += output.numel() * output.element_size() * (world - 1) // world

    def gather(own, group):
        counted[0] += own.numel() * own.element_size() * (group.world - 1)
        return own.expand(group.world, -1)

    monkeypatch.setattr(dist, "all_to_all_single", all_to_all)
    monkeypatch.setattr(_ranks, "all_gather", gather)
    return counted


class Group:
    def __init__(self, world):
        self.world = world


@pytest.mark.parametrize(("classes", "dim", "world"), [(8, 3, 4), (7, 5, 3), (2, 4, 5)])
def test_a_rank_receives_what_is_said(received, classes, dim, world):
    headers = (world - 1) * _ranks.HEADER
    distributed._gather([moments(classes, dim)], world, Group(world))
    assert received[0] == headers + projection.gather_bytes(classes, dim, world)
    received[0] = 0
    distributed._exchange([moments(classes, dim)], world, Group(world))
    assert received[0] == headers + projection.exchange_bytes(classes, dim, world)


@pytest.mark.parametrize("world", [2, 8])
@pytest.mark.parametrize("classes", [511, 512, 513])
def test_the_way_is_the_one_taken(monkeypatch, classes, world):
    taken = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda group: world)
    for name, way in (("_gather", "one collective"), ("_exchange", "two collectives")):
        monkeypatch.setattr(distributed, name, lambda *_, way=way: taken.append(way))
    distributed.all_reduce_many([moments(classes, 254)])
    assert taken == [projection.all_reduce_bytes(classes, 254, world)[0]]


@pytest.mark.parametrize(("ranks", "steps"), [(1, 0), (2, 1), (5, 3), (1024, 10)])
def test_steps_of_a_tree(ranks, steps):
    assert projection.tree_steps(ranks) == steps


def test_cluster_scale(tmp_path):
    path = tmp_path / "projection.json"
    assert projection.main(["--out", str(path)]) == 0
    line = projection.project(128_000, 4096, 64)
    assert line["state_bytes"] == 8 * (2 + 128_000 * 4098)
    assert line["seconds"]["400 Gb/s network"] == line["received_bytes"] / 50e9
