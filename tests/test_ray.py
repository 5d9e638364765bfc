"""Sweeps on a Ray that the test starts: two nodes on this machine, one of them removed in the middle."""

import socket
import subprocess
import sys
import threading
import time

import pytest
from helpers.browsing import LIMIT
from test_workers import FEW, digest

import audioscope
from audioscope import on_ray
from audioscope.workers import Ray

ray = pytest.importorskip("ray", reason="NO RAY: sweeps on a cluster are not tested. Install the extra `ray`.")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # beside other tests, its workers would hardly get a turn

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield found
    ray.shutdown()
    for waiting in list(on_ray._idle):  # their time comes after the connection was ended, when Ray would end this process
        waiting.timer.cancel()
        waiting._unless_taken()
    assert not on_ray._idle
    found.shutdown()


def test_units_on_two_nodes_of_which_one_goes(cluster, tiny, tmp_path):
    whole = audioscope.localize(tiny, **FEW, seeds=2, workers=1, out=tmp_path / "whole")
    second = cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False, logging_level="error")
    out, there = tmp_path / "ray", []

    def remove():
        end = time.monotonic() + LIMIT
        while not list(out.glob("units/*.parquet")) and time.monotonic() < end:
            time.sleep(0.02)
        cluster.remove_node(second, allow_graceful=False)
        there.append(len(list(out.glob("units/*.parquet"))))

    removing = threading.Thread(target=remove)
    removing.start()
    atlas = audioscope.localize(tiny, **FEW, seeds=2, workers="ray", out=out)
    removing.join()
    assert not atlas.table["failed"].any() and there[0] < 8, "the node went in the middle"
    assert atlas.table.equals(whole.table) and digest(out) == digest(tmp_path / "whole"), "on one machine, the same bytes"
    assert audioscope.localize(tiny, **FEW, seeds=2, workers=1, out=out).table.equals(whole.table), "a sweep goes on anywhere"
    with pytest.raises(ValueError, match=r"\d CPUs or 0 GPUs, too few"):
        audioscope.localize(tiny, **FEW, workers=Ray(gpus=0.5), out=tmp_path / "none")


def test_a_cluster_is_reached_from_outside(tiny, tmp_path, monkeypatch):
    """By `ray://`, as from a laptop: a head node that this process does not belong to."""
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # the command line asks for a token otherwise
    with socket.socket() as free, socket.socket() as other:
        free.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, own = free.getsockname()[1], other.getsockname()[1]
    begin = ["start", "--head", "--num-cpus=1", "--include-dashboard=false", f"--port={own}", f"--ray-client-server-port={port}"]
    command = [sys.executable, "-m", "ray.scripts.scripts"]
    subprocess.run([*command, *begin], check=True, capture_output=True, timeout=LIMIT)
    try:
        there = audioscope.localize(tiny, **FEW, workers=Ray(f"ray://127.0.0.1:{port}", actors=4), out=tmp_path / "there")
        assert there.table.equals(audioscope.localize(tiny, **FEW, workers=1, out=tmp_path / "here").table)
    finally:
        ray.shutdown()
        on_ray.end_actors()
        subprocess.run([*command, "stop", "--force"], capture_output=True, timeout=LIMIT)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpus": "x"}, "gpus is 'x', expected a number"),
        ({"gpus": float("nan")}, "gpus is nan"),
        ({"gpus": -1}, "gpus is -1, expected a whole number"),
        ({"gpus": 1.5}, "gpus is 1.5, expected a whole number, or a fraction of one GPU"),
        ({"actors": 0}, "actors is 0, expected a whole number of at least 1"),
        ({"actors": 2.5}, "actors is 2.5"),
        ({"actors": "2"}, "actors is '2'"),
        ({"address": ""}, "address is ''"),
        ({"address": 3}, "address is 3"),
        ({"address": "ray://"}, "address is 'ray://'"),
        ({"gpus": 1e-5}, "gpus is 1e-05"),
    ],
)
def test_what_no_cluster_can_be_asked_is_said_at_once(given, message):
    with pytest.raises(ValueError, match=message):
        Ray(**given)


@pytest.mark.parametrize(
    ("gpus", "threads", "room"),
    [(None, 1, 3), (None, 2, 1), (None, 4, 0), (1, 1, 3), (2, 1, 1), (3, 1, 0), (0.6, 1, 3), (0.5, 1, 6), (0.1, 1, 30)],
)
def test_an_actor_fits_on_one_node(gpus, threads, room):
    """Two nodes, of 2 CPUs and GPUs and of 1: what is left on several of them together is of no use to an actor."""
    nodes = [{"CPU": 2.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}, {"memory": 1e9}]
    assert sum(on_ray._fit(node, gpus or 0.0, threads) for node in nodes) == room


def test_one_unit_goes_to_the_cluster_too(tiny, tmp_path):
    with pytest.raises(ConnectionError, match="No Ray cluster answers at 'auto'"):
        audioscope.localize(tiny, ["fast"], pairs=1, sites=[0], steps=1, progress=False, workers="ray", out=tmp_path)


def test_actors_never_wait_for_a_gpu_that_is_not_there(cluster, tiny, tmp_path):
    ray.init(cluster.address, log_to_driver=False, logging_level="error")
    with pytest.raises(ValueError, match=r"or 0 GPUs, too few for one model, which needs 0\.5 of a GPU"):
        audioscope.localize(tiny, **FEW, workers=Ray(gpus=0.5, actors=1), out=tmp_path)


def test_a_cluster_that_is_not_there_is_named(tiny, tmp_path):
    with pytest.raises(ConnectionError, match="No Ray cluster answers at 'auto'.*ray start --head"):
        audioscope.localize(tiny, **FEW, workers="ray", out=tmp_path)
