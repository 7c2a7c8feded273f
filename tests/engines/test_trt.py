"""TensorRT from 8.2 to 11, by a fake of each version's interface, and what the real ones print."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from reduce_models import images, small

from pomt_edge.engines import BuildOptions, Built, Setting, _tensorrt_layers, trt
from pomt_edge.engines import _tensorrt_build as building
from pomt_edge.engines import _tensorrt_session as sessions
from pomt_edge.engines._tensorrt import Gpu, Messages
from pomt_edge.engines._tensorrt_faults import of_loading
from pomt_edge.errors import Unavailable, UserError
from pomt_edge.reduce.reduced_model import reduce_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

FAKE = str(Path(__file__).parents[1] / "fakes" / "tensorrt_fake")
OLD, JETPACK6, JETPACK7, NEWEST = "8.2.1.9", "10.3.0.30", "10.13.3.9", "11.1.0.4"
ORIN = Gpu("Orin", (8, 7))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], ModuleType]:
    def become(version: str) -> ModuleType:
        monkeypatch.setenv("FAKE_TENSORRT_VERSION", version)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        # Not by monkeypatch: of two calls in a test it would put back the first one's fake, for all tests to come.
        sys.modules.pop("tensorrt", None)
        monkeypatch.syspath_prepend(FAKE)
        return importlib.import_module("tensorrt")

    yield become
    sys.modules.pop("tensorrt", None)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pomt_edge.export.graph import to_onnx

    file = tmp_path_factory.mktemp("graph") / "reduced.onnx"
    model = reduce_model(small(depth=2), method="tome", schedule=[20, 0])
    onnx.save(to_onnx(model, batch_size=2, image_px=32, dynamic_batch=True), str(file))
    return file


def build(source: Path, folder: Path, precision: str = "fp16", **options: Any) -> Built:
    setting, made = Setting("cuda", precision, 4, 32), BuildOptions(folder, "reduced", **options)
    return building.build(trt.LIBRARY, source, setting, made, trt.rules(ORIN))


def asked(library: ModuleType, what: str) -> list[Any]:
    return [call[1] for call in library.calls if call[0] == what]


@pytest.mark.parametrize(
    ("version", "network", "flags"),
    [
        (OLD, ["EXPLICIT_BATCH"], ["FP16", "OBEY_PRECISION_CONSTRAINTS"]),
        (JETPACK6, ["EXPLICIT_BATCH"], ["FP16", "OBEY_PRECISION_CONSTRAINTS"]),
        (JETPACK7, ["EXPLICIT_BATCH", "STRONGLY_TYPED"], []),
        (NEWEST, ["STRONGLY_TYPED"], []),
    ],
)
def test_precision_is_asked_for_as_the_version_has_it(
    install: Callable[[str], ModuleType],
    graph: Path,
    tmp_path: Path,
    version: str,
    network: list[str],
    flags: list[str],
) -> None:
    library = install(version)
    build(graph, tmp_path)
    assert asked(library, "network") == [network]
    assert asked(library, "set_flag") == flags
    assert asked(library, "clear_flag") == ["TF32"]
    assert asked(library, "profile") == [{"images": ((1, 3, 32, 32), (4, 3, 32, 32), (4, 3, 32, 32))}]


@pytest.mark.parametrize("version", [OLD, JETPACK6])
def test_what_ranks_normalises_or_sums_is_held_to_float32(
    install: Callable[[str], ModuleType], graph: Path, tmp_path: Path, version: str
) -> None:
    library = install(version)
    build(graph, tmp_path)
    [layers] = asked(library, "float32 layers")
    held = [layer for layer in layers if layer.precision == library.float32]
    free = [layer for layer in layers if layer.precision is None]
    for operation in ("Softmax", "LayerNormalization", "TopK", "Erf"):
        assert operation in {layer.op for layer in held}
        assert operation not in {layer.op for layer in free}
    assert sum(layer.op == "Softmax" for layer in held) == 4, "a node's further layers are held like its first"
    products = [layer for layer in layers if layer.op == "MatMul"]
    for module in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        assert any(f"blocks.1.{module}/" in layer.node for layer in products if layer in free)
    assert [layer for layer in products if layer in held], "ToMe's similarities only rank"
    topk = next(layer for layer in layers if layer.op == "TopK")
    assert set(topk.output_types) == {0}, "indices have no precision"
    assert all(layer.precision is None for layer in layers if layer.type == library.LayerType.IDENTITY)


def test_float32_needs_no_flag(install: Callable[[str], ModuleType], graph: Path, tmp_path: Path) -> None:
    library = install(OLD)
    build(graph, tmp_path, "fp32")
    assert asked(library, "set_flag") == []
    assert asked(library, "float32") == [set()]


def test_the_workspace_is_limited_as_the_version_has_it(
    install: Callable[[str], ModuleType], graph: Path, tmp_path: Path
) -> None:
    library = install(OLD)
    build(graph, tmp_path, workspace_mib=256)
    assert asked(library, "max_workspace_size")[-1] == 256 * 2**20
    build(graph, tmp_path)
    assert asked(library, "max_workspace_size")[-1] > 2**28, "8.2 takes none at all unless it is told"
    library = install(JETPACK6)
    build(graph, tmp_path, workspace_mib=256)
    assert asked(library, "workspace") == [256 * 2**20]
    library.calls.clear()
    build(graph, tmp_path)
    assert asked(library, "workspace") == []


def test_progress_is_told_where_the_version_knows_it(
    install: Callable[[str], ModuleType], graph: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    install(NEWEST)
    build(graph, tmp_path, tell=said.append)
    assert said == ["building reduced: 50 %", "building reduced: 100 %"]
    install(OLD)
    build(graph, tmp_path, tell=said.append)
    assert "minutes" in said[-1]


def test_the_timing_cache_is_kept_and_a_broken_one_replaced(
    install: Callable[[str], ModuleType], graph: Path, tmp_path: Path
) -> None:
    library, said = install(OLD), list[str]()
    cache = trt.rules(ORIN).timing_cache
    assert cache is not None
    assert tmp_path / "cache" in cache.parents
    assert cache != trt.rules(Gpu("Xavier", (7, 2))).timing_cache
    build(graph, tmp_path)
    build(graph, tmp_path, tell=said.append)
    assert asked(library, "timing cache") == [b"", b"cache+"]
    cache.write_bytes(b"half of a c")
    build(graph, tmp_path, tell=said.append)
    assert any("timing cache" in text and str(cache) in text for text in said)
    assert cache.read_bytes() == b"cache+"


def test_a_build_that_is_to_differ_leaves_the_timing_cache_alone(
    install: Callable[[str], ModuleType], graph: Path, tmp_path: Path
) -> None:
    library = install(OLD)
    build(graph, tmp_path, reuse_timings=False)
    cache = trt.rules(ORIN).timing_cache
    assert cache is not None and not cache.exists()
    assert asked(library, "timing cache") == []


@pytest.mark.parametrize("version", [OLD, NEWEST])
def test_a_node_that_is_not_supported_is_named(
    install: Callable[[str], ModuleType], graph: Path, tmp_path: Path, version: str
) -> None:
    install(version)
    model = onnx.load(str(graph))
    wrong = next(node for node in model.graph.node if node.op_type == "Erf")
    wrong.op_type = "Frobnicate"
    onnx.save(model, str(tmp_path / "wrong.onnx"))
    with pytest.raises(UserError, match=rf"Frobnicate node '{wrong.name}' of module blocks\.0\.mlp"):
        build(tmp_path / "wrong.onnx", tmp_path, "fp32")


MEMORY = [
    "[optimizer.cpp::computeCosts::3710] Error Code 4: Internal Error (Could not find any implementation for node "
    "{ForeignNode[blocks.0.attn/MatMul_21...Add_9]} due to insufficient workspace. See verbose log for sizes.)",
    "[virtualMemoryBuffer.cpp::resizePhysical::127] Error Code 2: OutOfMemory (no further information)",
    "Requested amount of GPU memory (4194304000 bytes) could not be allocated.",
]


@pytest.mark.parametrize("error", MEMORY)
def test_short_of_memory(install: Callable[[str], ModuleType], graph: Path, tmp_path: Path, error: str) -> None:
    install(JETPACK6).trouble.build.append(error)
    with pytest.raises(UserError, match=r"building reduced needs more than 64 MiB of workspace: give --workspace, a s"):
        build(graph, tmp_path, workspace_mib=64)
    with pytest.raises(UserError, match=r"more than the memory that is free: .*reduced\.build\.log"):
        build(graph, tmp_path)
    assert error in (tmp_path / "reduced.build.log").read_text()
    assert not (tmp_path / "reduced.engine").exists()


def test_another_failure_names_the_node(install: Callable[[str], ModuleType], graph: Path, tmp_path: Path) -> None:
    name = next(node.name for node in onnx.load(str(graph)).graph.node if node.op_type == "Erf")
    error = f"[x.cpp::f::12] Error Code 10: Internal Error (Could not find any implementation for node {name}.)"
    install(NEWEST).trouble.build.append(error)
    with pytest.raises(UserError, match=f"Erf node '{name}' of module .*Error Code 10") as raised:
        build(graph, tmp_path)
    assert "x.cpp" not in str(raised.value)


@pytest.mark.parametrize(("version", "method"), [(OLD, "execute_async_v2"), (JETPACK6, "execute_async_v3")])
def test_a_batch_goes_through_bound_tensors(
    install: Callable[[str], ModuleType], graph: Path, tmp_path: Path, version: str, method: str
) -> None:
    library = install(version)
    setting = Setting("cuda", "fp16", 4, 32)
    engine = library.Runtime(None).deserialize_cuda_engine(build(graph, tmp_path).artefact.read_bytes())
    bound = sessions.buffers(library, engine, engine.create_execution_context(), setting, "cpu")
    assert bound.images.shape == (4, 3, 32, 32)
    bound.images.copy_(images(4))
    assert bound.enqueue(17)
    assert asked(library, method) == [17]
    assert torch.equal(bound.outputs["logits"], images(4).flatten(1)[:, :10])


def test_an_engine_of_another_version_is_refused(
    install: Callable[[str], ModuleType], graph: Path, tmp_path: Path
) -> None:
    install("10.7.0.23")
    built = build(graph, tmp_path)
    install(JETPACK6)
    with pytest.raises(
        UserError, match=r"built by TensorRT 10\.7\.0\.23, here is TensorRT 10\.3\.0\.30: build it again"
    ):
        sessions.load(trt.LIBRARY, built, Setting("cuda", "fp16", 4, 32))
    with pytest.raises(UserError, match=r"gone\.engine can't be read"):
        sessions.load(
            trt.LIBRARY, dataclasses.replace(built, artefact=tmp_path / "gone.engine"), Setting("cuda", "fp16", 4, 32)
        )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("The engine plan file is generated on an incompatible device, expecting compute 8.7 got compute 7.2, please",
         "built for a GPU of compute capability 7.2, this one has 8.7"),
        ("Error Code 1: Serialization (Serialization assertion stdVersionRead == kVERSION failed. Version "
         "tag does not match. Note: Current Version: 239, Serialized Engine Version: 236)", "another version"),
        ("Error Code 2: OutOfMemory (no further information)", "smaller --batch-size"),
    ],
)  # fmt: skip
def test_what_loading_may_say(install: Callable[[str], ModuleType], error: str, told: str) -> None:
    install(JETPACK6)
    assert told in str(of_loading(trt.LIBRARY, Messages(errors=[error]), Path("reduced.engine")))


def test_the_rules_are_those_of_the_installed_version(install: Callable[[str], ModuleType]) -> None:
    for version, name in ((OLD, "jetpack4"), ("8.6.1", "jetpack5"), (JETPACK6, "jetpack6"), (NEWEST, "jetpack7")):
        install(version)
        assert trt.version() == version
        assert trt.target().name == name


def test_a_precision_that_is_not_there_is_refused(install: Callable[[str], ModuleType]) -> None:
    install(OLD)
    with pytest.raises(UserError, match="give --precision fp16"):
        trt.check_setting(Setting("cuda", "bf16", 1, 32))
    install(JETPACK6)
    trt.check_setting(Setting("cuda", "bf16", 1, 32))


def test_it_says_how_to_get_what_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert trt.version() is None
    with pytest.raises(Unavailable, match=r"TensorRT is not installed here .*install"):
        trt.check_device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_needs_a_gpu(install: Callable[[str], ModuleType]) -> None:
    install(JETPACK6)
    with pytest.raises(Unavailable, match="no such GPU"):
        trt.check_device("cuda")
    with pytest.raises(UserError, match="give --device cuda"):
        trt.check_device("cpu")


def layer(name: str, kind: str, reads: str, key: str = "Format/Datatype") -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, "Inputs": [{"Name": "x", "Dimensions": [1, 65, 64], key: reads}]}


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([layer("a", "CaskConvolution", "Channel major FP16 format where channel % 8 == 0")], "fp16"),
        ([layer("a", "CaskConvolution", "Four wide channel vectorized row major Int8 format")], "int8"),
        ([layer("a", "gemm", "Half", "Datatype"), layer("b", "gemm", "Half", "Datatype"), layer("c", "gemm", "Float")],
         "fp16"),
        ([layer("__myl_FcAdd_myl0_3", "kgen", "BFloat16"), layer("norm", "kgen", "Float")], "bf16"),
        ([layer("a", "CaskConvolution", "Row major FP16 format"), layer("{ForeignNode[b...c]}", "Myelin", "Float")],
         None),
        (["names alone"], None),
    ],
)  # fmt: skip
def test_the_inspector_tells_what_products_run_in(layers: list[Any], found: str | None) -> None:
    read = _tensorrt_layers.from_inspector(json.dumps({"Layers": layers, "Bindings": ["images", "logits"]}))
    assert _tensorrt_layers.precision(read) == found
