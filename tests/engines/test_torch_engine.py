"""The torch engine's sessions: on the CPU everywhere, compiled too, on CUDA where there is one."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config
from reduce_models import images, small
from torch import nn

from pomt_edge.engines import BuildOptions, Built, Session, Setting, Tapped
from pomt_edge.engines import torch as engine
from pomt_edge.errors import UserError
from pomt_edge.export import LOGITS
from pomt_edge.reduce.reduced_model import reduce_model

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
CPU = Setting("cpu", "fp32", 2, 32)
CUDA = Setting("cuda:0", "fp32", 2, 32)
GRAPHS = Setting("cuda:0", "fp32", 2, 32, cuda_graphs=True)


def session_of(model: nn.Module, setting: Setting) -> Session:
    prepared = engine.prepare(model, setting)
    return engine.load(engine.build(prepared, setting, BuildOptions(Path(), "model")), setting)


def test_the_host_session_times_forwards_and_knows_its_memory() -> None:
    model = small()
    session = session_of(model, CPU)
    assert session.timer == "host clock"
    samples = session.time_ms(5)
    assert len(samples) == 5 and min(samples) > 0
    memory = session.memory_mib()
    assert memory is not None and memory > 50
    with torch.inference_mode():
        found = session.run(images(5))[LOGITS]
        np.testing.assert_allclose(found, model(images(5)).numpy(), rtol=1e-5, atol=1e-6)


def test_the_first_forward_is_the_session_s_very_first() -> None:
    class Waking(nn.Linear):
        asleep = True

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.asleep:
                time.sleep(0.2)
            self.asleep = False
            return super().forward(images)

    session = session_of(Waking(32, 2), CPU)
    assert (session.first_ms or 0) >= 200 > min(session.time_ms(3))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_the_session_computes_within_is_told_as_a_graph_with_taps_does(precision: str) -> None:
    model = reduce_model(small(depth=3), method="tome", schedule=[0, 20, 10])
    session = session_of(model, replace(CPU, precision=precision))
    assert isinstance(session, Tapped)
    found = session.tapped(images(3))
    maps = {f"{name}{index}" for index in (1, 2) for name in ("kept", "merged", "into")}
    assert found.keys() == {LOGITS, "block0", "block1", "block2", *maps}
    np.testing.assert_array_equal(found[LOGITS], session.run(images(3))[LOGITS])
    with torch.inference_mode():
        told = session.model.token_maps(images(3).to(engine.DTYPES[precision]))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(found["kept1"], told[1].kept.numpy())
    assert found["kept1"].dtype == np.int64 and found["block1"].dtype == np.float32
    assert found["block1"].shape == (3, 45, 64)


def test_the_unreduced_model_tells_its_blocks() -> None:
    session = session_of(small(depth=1), CPU)
    assert isinstance(session, Tapped)
    found = session.tapped(images(2))
    assert found.keys() == {LOGITS, "block0"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_precision_is_that_of_the_weights(precision: str) -> None:
    session = session_of(small(), replace(CPU, precision=precision))
    assert session.precision() == precision
    assert session.run(images(2))[LOGITS].dtype == np.float32


def test_int8_and_a_provider_are_refused() -> None:
    with pytest.raises(UserError, match="torch does not run int8 here; give --engine onnxruntime"):
        engine.check_setting(replace(CPU, precision="int8"))
    with pytest.raises(UserError, match="--provider cuda is ONNX Runtime's"):
        engine.check_setting(replace(CPU, provider="cuda"))


def graphs() -> int:
    """How many have been compiled."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_more_variants_than_dynamo_would_recompile_for_are_all_compiled() -> None:
    """By itself it takes a handful for one forward's code, and then gives up."""
    setting = replace(CPU, compile=True)
    model = small(depth=2, embed_dim=16)
    torch._dynamo.reset()
    with torch._inductor.config.patch(compile_threads=1), torch._dynamo.config.patch(cache_size_limit=1):
        for removed in (1, 2):
            variant = reduce_model(model, method="topk", schedule=[0, removed], copy=False)
            before = graphs()
            session = session_of(variant, setting)
            assert graphs() == before + 1
            with torch.inference_mode():
                expected = variant(images(5)).numpy()
            np.testing.assert_allclose(session.run(images(5))[LOGITS], expected, atol=1e-4)
            assert min(session.time_ms(2)) > 0
            assert isinstance(session, Tapped)
            np.testing.assert_allclose(session.tapped(images(3))[LOGITS], expected[:3], atol=1e-4)
            assert graphs() == before + 1, "nothing is compiled again, for a last batch that is not full neither"


def test_what_can_not_be_compiled_is_refused_and_not_run_in_eager() -> None:
    class Asks(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"torch.compile can't compile this model here .*leave --compile out"):
        session_of(Asks(1, 1), replace(CPU, compile=True))


def test_the_cpu_has_no_graphs_and_says_so() -> None:
    assert engine.objection_to_graphs(small(), CPU) == "cpu has no CUDA graphs"


@on_cuda
@pytest.mark.parametrize(("setting", "timer"), [(CUDA, "CUDA events"), (GRAPHS, "CUDA graph replay")])
def test_cuda_sessions_compute_what_the_cpu_does(setting: Setting, timer: str) -> None:
    expected = session_of(small(), CPU).run(images(2))[LOGITS]
    session = session_of(small(), setting)
    assert session.timer == timer
    assert min(session.time_ms(5)) > 0
    np.testing.assert_allclose(session.run(images(2))[LOGITS], expected, atol=1e-2)


@on_cuda
def test_fp32_is_not_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    engine.prepare(small(depth=1), CUDA)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


@on_cuda
def test_many_graphs_share_a_pool_and_replay_in_any_order() -> None:
    model = engine.prepare(small(), GRAPHS)
    assert engine.objection_to_graphs(model, GRAPHS) is None
    schedules = [(0, removed, 0, 0) for removed in range(1, 40)]
    variants = [reduce_model(model, method="pomt", schedule=schedule, copy=False) for schedule in schedules]
    assert engine.objection_to_graphs(variants[-1], GRAPHS) is None, "a second probe, the first one's graph is gone"
    sessions = [engine.load(Built(variant), GRAPHS) for variant in variants]
    for session in (sessions[-1], sessions[0], sessions[20]):
        assert min(session.time_ms(3)) > 0
    memories = [session.memory_mib() or 0 for session in sessions]
    assert memories[-1] <= 1.1 * memories[0], "later points seem to need more"
