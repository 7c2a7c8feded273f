"""The torch engine's sessions: on the CPU everywhere, on CUDA where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reduce_models import images, small

from pomt_edge.engines import Setting
from pomt_edge.engines import torch as engine
from pomt_edge.reduce.reduced_model import reduce_model

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
CPU = Setting("cpu", "fp32", 2, 32)
CUDA = Setting("cuda:0", "fp32", 2, 32)
GRAPHS = Setting("cuda:0", "fp32", 2, 32, cuda_graphs=True)


def test_the_host_session_times_forwards_and_knows_its_memory() -> None:
    model = engine.prepare(small(), CPU)
    session = engine.load(model, CPU)
    assert session.timer == "host clock"
    samples = session.time_ms(5)
    assert len(samples) == 5 and min(samples) > 0
    memory = session.memory_mib()
    assert memory is not None and memory > 50
    with torch.inference_mode():
        np.testing.assert_allclose(session.logits(images(2)), model(images(2)).numpy(), rtol=1e-5, atol=1e-6)


def test_the_cpu_has_no_graphs_and_says_so() -> None:
    assert engine.objection_to_graphs(small(), CPU) == "cpu has no CUDA graphs"


@on_cuda
@pytest.mark.parametrize(("setting", "timer"), [(CUDA, "CUDA events"), (GRAPHS, "CUDA graph replay")])
def test_cuda_sessions_compute_what_the_cpu_does(setting: Setting, timer: str) -> None:
    expected = engine.load(engine.prepare(small(), CPU), CPU).logits(images(2))
    session = engine.load(engine.prepare(small(), setting), setting)
    assert session.timer == timer
    assert min(session.time_ms(5)) > 0
    np.testing.assert_allclose(session.logits(images(2)), expected, atol=1e-2)


@on_cuda
def test_many_graphs_share_a_pool_and_replay_in_any_order() -> None:
    model = engine.prepare(small(), GRAPHS)
    assert engine.objection_to_graphs(model, GRAPHS) is None
    schedules = [(0, removed, 0, 0) for removed in range(1, 40)]
    variants = [reduce_model(model, method="pomt", schedule=schedule, copy=False) for schedule in schedules]
    assert engine.objection_to_graphs(variants[-1], GRAPHS) is None, "a second probe, the first one's graph is gone"
    sessions = [engine.load(variant, GRAPHS) for variant in variants]
    for session in (sessions[-1], sessions[0], sessions[20]):
        assert min(session.time_ms(3)) > 0
    memories = [session.memory_mib() or 0 for session in sessions]
    assert memories[-1] <= 1.1 * memories[0], "later points seem to need more"
