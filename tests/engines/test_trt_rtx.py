"""Real builds by TensorRT for RTX, which needs no GPU for them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reduce_models import images, small

from pomt_edge.engines import BuildOptions, Built, Setting, trt_rtx
from pomt_edge.engines._tensorrt_progress import interruptible
from pomt_edge.errors import Unavailable, UserError
from pomt_edge.reduce.reduced_model import reduce_model

pytest.importorskip("tensorrt_rtx_bindings")
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def graph() -> Any:
    from pomt_edge.export.graph import to_onnx

    model = reduce_model(small(depth=2), method="pomt", schedule=[20, 0])
    return to_onnx(model, batch_size=1, image_px=32, dynamic_batch=True)


@pytest.fixture(scope="module")
def half(graph: Any) -> Any:
    from pomt_edge.export.precision import typed

    return typed(graph, "fp16")


def build(model: Any, folder: Path, precision: str = "fp32", px: int = 32, **options: Any) -> Built:
    file = folder / "reduced.onnx"
    onnx.save(model, str(file))
    setting = Setting("cuda", precision, 2, px)
    return trt_rtx.build(file, setting, BuildOptions(folder, "reduced", **options))


def refused(model: Any, folder: Path, precision: str = "fp32", px: int = 32) -> str:
    """The one line of the error; no engine and nothing half-written may be left."""
    with pytest.raises(UserError) as raised:
        build(model, folder, precision, px)
    assert {path.name for path in folder.iterdir()} == {"reduced.onnx", "reduced.build.log"}
    assert "\n" not in str(raised.value)
    return str(raised.value)


def one_node(**attributes: Any) -> Any:
    """A graph of one ScatterElements behind a Relu, for images of 8 pixels."""
    make, kinds = onnx.helper, onnx.TensorProto
    images, logits = (make.make_tensor_value_info(name, kinds.FLOAT, [2, 3, 8, 8]) for name in ("images", "logits"))
    indices = make.make_tensor("indices", kinds.INT64, [2, 1, 8, 8], [0] * 128)
    updates = make.make_tensor("updates", kinds.FLOAT, [2, 1, 8, 8], [1.0] * 128)
    relu = make.make_node("Relu", ["images"], ["positive"], name="blocks.2/Relu_0")
    scatter = make.make_node(
        "ScatterElements",
        ["positive", "indices", "updates"],
        ["logits"],
        name="blocks.3/ScatterElements_1",
        axis=1,
        **attributes,
    )
    graph = make.make_graph([relu, scatter], "graph", [images], [logits], [indices, updates])
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=8)


def test_float32_is_built_and_read_back(graph: Any, tmp_path: Path) -> None:
    said: list[str] = []
    built = build(graph, tmp_path, tell=said.append)
    assert built.artefact.read_bytes()[1:4] == b"trt"
    assert built.size_mib == built.artefact.stat().st_size / 2**20
    assert built.precision == "fp32"
    assert not {"fp16", "bf16", "int8"} & set(built.kernels)
    assert built.kernels["fp32"] > 20
    assert 0 < built.seconds < 60
    shares = [int(text.removeprefix("building reduced: ").removesuffix(" %")) for text in said]
    assert shares == sorted(set(shares))
    assert shares[0] < 50 < shares[-1]
    assert built.log is not None
    assert "[VERBOSE] Layers:" in built.log.read_text()


def test_half_precision_is_read_back_though_scores_and_norms_stay_wide(half: Any, tmp_path: Path) -> None:
    built = build(half, tmp_path, "fp16")
    assert built.precision == "fp16"
    assert built.kernels["fp16"] > built.kernels["fp32"] > 0


def test_another_precision_than_asked_is_refused(graph: Any, tmp_path: Path) -> None:
    told = refused(graph, tmp_path, "fp16")
    assert "--precision fp16" in told
    assert "run in fp32" in told


def test_an_earlier_engine_outlives_a_refused_build(half: Any, tmp_path: Path) -> None:
    (tmp_path / "reduced.engine").write_bytes(b"of before")
    with pytest.raises(UserError, match="run in fp16"):
        build(half, tmp_path)
    assert (tmp_path / "reduced.engine").read_bytes() == b"of before"


def test_int8_is_read_back(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from pomt_edge.export.graph import to_onnx
    from pomt_edge.export.int8 import quantised

    model = quantised(to_onnx(small(depth=1), batch_size=2, image_px=32), [images(2).numpy()])
    assert build(model, tmp_path, "int8").precision == "int8"


def test_a_graph_of_another_batch_is_refused(tmp_path: Path) -> None:
    from pomt_edge.export.graph import to_onnx

    assert "--batch-size 3" in refused(to_onnx(small(depth=1), batch_size=3, image_px=32), tmp_path)


def test_an_operation_that_is_not_supported_is_named(tmp_path: Path) -> None:
    told = refused(one_node(reduction="add"), tmp_path, px=8)
    assert "ScatterElements node 'blocks.3/ScatterElements_1' of module blocks.3" in told
    assert "UNSUPPORTED_NODE_ATTR: Unsupported reduction type" in told
    assert build(one_node(), tmp_path, px=8).precision is None


def test_the_builder_s_own_reason_is_told(tmp_path: Path) -> None:
    """The Attention operator in float32 is parsed, and no kernel is found for it."""
    make, kinds = onnx.helper, onnx.TensorProto
    given, logits = (make.make_tensor_value_info(name, kinds.FLOAT, [2, 3, 32, 32]) for name in ("images", "logits"))
    weights = [make.make_tensor(name, kinds.FLOAT, [32, 32], [0.5] * 1024) for name in ("wq", "wk", "wv")]
    products = [make.make_node("MatMul", ["images", f"w{name}"], [name], name=f"{name}/MatMul") for name in "qkv"]
    attention = make.make_node("Attention", list("qkv"), ["logits"], name="blocks.1.attn/Attention_7")
    graph = make.make_graph([*products, attention], "graph", [given], [logits], weights)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 23)], ir_version=10)
    assert "Attention operation was not supported by a dedicated kernel" in refused(model, tmp_path)


@pytest.mark.parametrize("content", [b"no graph at all", None])
def test_a_file_that_is_no_graph_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "broken.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.onnx: .*export"):
        trt_rtx.build(file, Setting("cuda", "fp32", 1, 32), BuildOptions(tmp_path, "broken"))


@pytest.fixture
def endings() -> Iterator[tuple[signal.Signals, ...]]:
    """Signals that a command takes as Ctrl-C."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(ending, signal.default_int_handler) for ending in signals]
    yield signals
    for ending, handler in zip(signals, before, strict=True):
        signal.signal(ending, handler)


def test_ctrl_c_and_other_endings_stop_a_build(graph: Any, tmp_path: Path, endings: tuple[signal.Signals, ...]) -> None:
    for ending in endings:
        raised_inside: list[BaseException] = []

        def end(text: str, ending: signal.Signals = ending, raised: list[BaseException] = raised_inside) -> None:
            try:
                signal.raise_signal(ending)
            except BaseException as error:
                raised.append(error)

        with pytest.raises(KeyboardInterrupt):
            build(graph, tmp_path, tell=end)
        assert not raised_inside, "it would go through the library"
        assert not (tmp_path / "reduced.engine").exists()
        assert [signal.getsignal(one) for one in endings] == 3 * [signal.default_int_handler]


def test_an_ending_that_is_not_python_s_is_left_to_the_system(endings: tuple[signal.Signals, ...]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_ending_is_not_held_back(endings: tuple[signal.Signals, ...]) -> None:
    reached: list[str] = []

    def end_twice() -> None:
        with interruptible() as stop:
            signal.raise_signal(signal.SIGHUP)
            reached.append("after the first" if stop.is_set() else "not noted")
            signal.raise_signal(signal.SIGTERM)
            reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        end_twice()
    assert reached == ["after the first"]


def test_loading_needs_a_gpu_that_it_runs_on(graph: Any, tmp_path: Path) -> None:
    if torch.cuda.is_available() and torch.cuda.get_device_capability() in trt_rtx._capabilities(
        trt_rtx.LIBRARY.load()
    ):
        pytest.skip("this GPU runs it")
    built = build(graph, tmp_path)
    with pytest.raises(Unavailable, match=r"7\.5, 8\.0, 8\.6, 8\.9, 12\.0.*the built engine is at .*reduced\.engine"):
        trt_rtx.load(built, Setting("cuda", "fp32", 2, 32))


def test_it_is_for_cuda_alone() -> None:
    trt_rtx.check_device("cuda:0")
    with pytest.raises(UserError, match="give --device cuda"):
        trt_rtx.check_device("cpu")
