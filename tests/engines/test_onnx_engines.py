"""ONNX Runtime and OpenVINO on the CPU: what torch computes, in the precision that was asked for or not at all."""

from __future__ import annotations

import functools
import importlib
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reduce_models import images, small

from pomt_edge import reduce_model
from pomt_edge.engines import BuildOptions, Session, Setting
from pomt_edge.engines._host import seeded_images
from pomt_edge.errors import UserError
from pomt_edge.export import LOGITS, files, int8, pipeline, precision
from pomt_edge.export.target import TARGETS

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
NAMES = ["onnxruntime", "openvino"]
CPU = Setting("cpu", "fp32", 2, 32)
MODEL = reduce_model(small(depth=2), method="pomt", schedule=[0, 20])


def engine(name: str) -> Any:
    pytest.importorskip(name)
    return importlib.import_module(f"pomt_edge.engines.{name}")


Graph = Callable[[str], Path]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A reduced model's file, by its precision."""
    exported = pipeline.deployable(MODEL, batch_size=2, image_px=32, precision="fp32", target=TARGETS["generic"])

    @functools.cache
    def get(name: str) -> Path:
        file = tmp_path_factory.mktemp(name) / "reduced.onnx"
        model = int8.quantised(exported, [images(2).numpy()]) if name == "int8" else exported
        files.write(precision.typed(model, name) if name in ("fp16", "bf16") else model, file)  # type: ignore[arg-type]
        return file

    return get


def loaded(name: str, file: Path, setting: Setting = CPU) -> Session:
    by = engine(name)
    return by.load(by.build(file, setting, BuildOptions(file.parent, "reduced")), setting)


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_images_gives_what_torch_computes(name: str, graph: Graph) -> None:
    session = loaded(name, graph("fp32"))
    given = images(5)
    with torch.inference_mode():
        expected = MODEL(given).numpy()
    assert session.precision() == "fp32"
    for _ in range(2):
        found = session.run(given)
        assert found.keys() == {LOGITS} and found[LOGITS].dtype == np.float32
        np.testing.assert_allclose(found[LOGITS], expected, atol=2e-5)
        samples = session.time_ms(3)  # on images of its own, which must not stay in the buffers of the next run
        assert len(samples) == 3 and min(samples) > 0
    seed = torch.Generator().manual_seed(0)
    assert torch.equal(seeded_images(2, 32), torch.randn(2, 3, 32, 32, generator=seed)), "all sessions are timed on it"
    assert session.timer == "host clock" and (session.memory_mib() or 0) > 50
    assert (session.first_ms or 0) > 0


@pytest.mark.parametrize("name", NAMES)
def test_what_a_run_gave_is_not_overwritten_by_the_next(name: str, graph: Graph) -> None:
    session = loaded(name, graph("fp32"))
    first = session.run(images(2))[LOGITS]
    kept = first.copy()
    session.run(images(2) * -3)
    assert (first == kept).all()


@pytest.mark.parametrize("name", NAMES)
def test_int8_runs_in_whole_numbers(name: str, graph: Graph) -> None:
    session = loaded(name, graph("int8"), replace(CPU, precision="int8"))
    assert session.precision() == "int8"
    with torch.inference_mode():
        expected = MODEL(images(2)).numpy()
    found = session.run(images(2))[LOGITS]
    assert 0 < np.abs(found - expected).max() < 0.5 * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_int8_that_is_not_in_the_graph_is_no_int8(name: str, graph: Graph) -> None:
    with pytest.raises(UserError, match="runs int8 in fp32"):
        loaded(name, graph("fp32"), replace(CPU, precision="int8"))


def test_fp16_runs_in_fp16_or_not_at_all(graph: Graph) -> None:
    """x86 has no such kernels in ONNX Runtime, and it would compute in float32 between casts without a word."""
    setting = replace(CPU, precision="fp16")
    if platform.machine() != "x86_64":
        pytest.skip("this processor may have kernels in fp16")
    says = "ONNX Runtime's CPU provider runs fp16 in fp32; give --precision fp32, or another --engine"
    with pytest.raises(UserError, match=says):
        loaded("onnxruntime", graph("fp16"), setting)


def test_openvino_runs_bf16_where_the_processor_has_it_and_never_unasked(graph: Graph) -> None:
    setting = replace(CPU, precision="bf16")
    has = "BF16" in importlib.import_module("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if has:
        engine("openvino").check_setting(setting)
        assert loaded("openvino", graph("bf16"), setting).precision() == "bf16"
    else:
        with pytest.raises(UserError, match=r"--precision bf16: OpenVINO has .*fp32"):
            engine("openvino").check_setting(setting)
    assert loaded("openvino", graph("fp32"), CPU).precision() == "fp32"


def test_bf16_is_not_onnx_runtimes_on_the_cpu() -> None:
    with pytest.raises(UserError, match="CPU provider does not run bf16; give --precision fp32, or --engine openvino"):
        engine("onnxruntime").check_setting(replace(CPU, precision="bf16"))


@pytest.mark.parametrize(
    ("name", "device", "says"),
    [("openvino", "cuda", "runs on the CPU here; give --device cpu"), ("onnxruntime", "cuda", "without CUDA|no CUDA")],
)
def test_a_device_that_is_not_to_be_had(name: str, device: str, says: str) -> None:
    by = engine(name)
    if by.default_device() == "cuda":
        pytest.skip("here it is to be had")
    with pytest.raises(UserError, match=says):
        by.check_device(device)


def test_a_provider_has_to_fit_the_device_and_be_there() -> None:
    by = engine("onnxruntime")
    with pytest.raises(UserError, match="--provider cuda does not run on --device cpu; give --provider cpu"):
        by.check_setting(replace(CPU, provider="cuda"))
    with pytest.raises(UserError, match="--provider cpu does not run on --device cuda:0; give --provider cuda"):
        by.check_setting(replace(CPU, device="cuda:0", provider="cpu"))
    if by.default_device() == "cpu":
        with pytest.raises(UserError, match=r"--provider tensorrt: this ONNX Runtime has cpu; .*onnxruntime-gpu"):
            by.check_setting(replace(CPU, device="cuda:0", provider="tensorrt"))
    by.check_setting(replace(CPU, provider="cpu"))


TENSORRT = replace(CPU, device="cuda:1", precision="fp16", provider="tensorrt")


def providers(graph: Path, folder: Path, name: str, **options: Any) -> list[tuple[str, dict[str, str]]]:
    by = engine("onnxruntime")
    return by._providers(by.build(graph, TENSORRT, BuildOptions(folder, name, **options)).artefact, TENSORRT, False)


def test_what_tensorrt_refuses_runs_on_cuda_in_float32(graph: Graph, tmp_path: Path) -> None:
    first, second = providers(graph("fp16"), tmp_path, "reduced", workspace_mib=64)
    assert first[0] == "TensorrtExecutionProvider"
    assert first[1]["trt_max_workspace_size"] == str(64 * 2**20)
    assert first[1]["trt_fp16_enable"] == first[1]["trt_engine_cache_enable"] == "True"
    assert first[1]["device_id"] == second[1]["device_id"] == "1"
    assert second[0] == "CUDAExecutionProvider" and second[1]["use_tf32"] == "0"
    assert "trt_max_workspace_size" not in providers(graph("fp16"), tmp_path, "reduced")[0][1]


def test_a_tensorrt_engine_is_that_of_its_build(graph: Graph, tmp_path: Path) -> None:
    def cache(name: str) -> Path:
        return Path(providers(graph("fp16"), tmp_path, name)[0][1]["trt_engine_cache_path"])

    kept = cache("reduced")
    assert kept == tmp_path / "reduced.trt_cache" and kept.is_dir()
    (kept / "of_before.engine").write_bytes(b"an engine of another schedule")
    assert cache("reduced.build2") != kept
    assert (kept / "of_before.engine").exists()
    assert not list(cache("reduced").iterdir())


def test_products_on_the_cpu_are_no_tensorrt(graph: Graph) -> None:
    by = engine("onnxruntime")
    products = by._Session(by.Artefact(graph("fp32")), CPU).products
    by._check_places(products, CPU)
    with pytest.raises(UserError, match=f"leaves {len(products)} kernels .* to the CPU; give --provider cuda"):
        by._check_places(products, TENSORRT)
    by._check_places([], TENSORRT)


def test_a_provider_that_does_not_come_up_is_not_replaced(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    setting = replace(CPU, device="cuda")
    if engine("onnxruntime").default_device() == "cpu":
        with pytest.warns(UserWarning, match="CUDA"), pytest.raises(UserError, match="provider does not come up here"):
            loaded("onnxruntime", graph("fp32"), setting)
    kind = importlib.import_module("onnxruntime").InferenceSession
    opened: list[Any] = []

    def fails(session: Any, providers: Any, *rest: Any) -> None:
        opened.append(providers)
        raise RuntimeError("/ort/cuda_call.cc:123 [with X = int] CUDA failure 35: driver too old ; GPU=0 ; line=9")

    monkeypatch.setattr(kind, "_create_inference_session", fails)
    with pytest.raises(UserError, match=r"does not come up here \(CUDA failure 35: driver too old\); type: pip"):
        loaded("onnxruntime", graph("fp32"), setting)
    assert len(opened) == 1 and capfd.readouterr().out == "", "--json is printed there"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_no_model_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"can't run broken\.onnx") as refusal:
        loaded(name, path)
    assert "\n" not in str(refusal.value)


def test_without_the_libraries_it_says_what_to_type() -> None:
    code = f"""
import importlib, sys
from pomt_edge.errors import UserError
for name in {NAMES}:
    sys.modules[name] = None
    engine = importlib.import_module("pomt_edge.engines." + name)
    assert engine.version() is None
    try:
        engine.check_device("cpu")
    except UserError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = [f"--engine {name}: not installed; type: pip install {name}" for name in NAMES]
    assert done.stdout.splitlines() == expected
