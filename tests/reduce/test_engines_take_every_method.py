"""Every method is compiled, exported and run by other engines, and asks nothing of the host on the way."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import shutil
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor.config
from reduce_models import images, small
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses import FakeTensorMode

from pomt_edge import reduce_model
from pomt_edge.reduce.token_map import ranked_by

NAMES = ["pomt", "pomt:score=cls", "topk", "tome", "pitome", "l2_norm", "random"]
BATCH = images(2, 16)
EXPORTERS = {"dynamo": True, "legacy": False}


@functools.cache
def reduced(name: str) -> nn.Module:
    """A block that reduces, and one that reduces behind a merge (PiToMe: in its two modes)."""
    # Behind a merge, ToMe's attention is proportional where nothing is removed too.
    schedule = [4, 3, 0] if name == "tome" else [4, 3]
    model = small(img_size=16, embed_dim=16, depth=len(schedule), reg_tokens=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return reduce_model(model, method=name, schedule=schedule)


@functools.cache
def logits(name: str) -> Tensor:
    with torch.no_grad():
        return reduced(name)(BATCH)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_to_one_graph_once(name: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(reduced(name), fullgraph=True, backend=counter)
    with torch.no_grad():
        torch.testing.assert_close(compiled(BATCH), logits(name))
        compiled(BATCH.flip(0))
        compiled(BATCH * 0)
    assert counter.frame_count == 1


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_inductor_computes_the_same() -> None:
    torch._dynamo.reset()
    with torch.no_grad(), torch._inductor.config.patch(compile_threads=1):
        found = torch.compile(reduced("tome"), fullgraph=True)(BATCH)
    torch.testing.assert_close(found, logits("tome"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@pytest.mark.parametrize("name", NAMES)
def test_exports_with_no_constant_and_no_question_to_the_host(name: str, strict: bool) -> None:
    any_batch = None if strict else {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(reduced(name), (BATCH,), dynamic_shapes=any_batch, strict=strict)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(BATCH), logits(name))
        if any_batch:
            torch.testing.assert_close(program.module()(BATCH.repeat(3, 1, 1, 1)), logits(name).repeat(3, 1))
    assert not program.constants
    assert not [node for node in program.graph.nodes if "_local_scalar_dense" in str(node.target)]


@pytest.mark.parametrize("name", NAMES)
def test_forward_stays_on_the_device_and_never_waits_for_it(name: str) -> None:
    """On tensors that have a device and no values: a question for a value, or a tensor elsewhere, is an error."""
    model = copy.deepcopy(reduced(name))
    with FakeTensorMode(allow_non_fake_inputs=False), torch.no_grad():
        for module in model.modules():
            for key, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[key] = nn.Parameter(torch.empty(parameter.shape, device="cuda"))
        found = model(torch.empty(2, 3, 16, 16, device="cuda"))
    assert found.shape == (2, 10) and found.device.type == "cuda"


def run_onnx(model: nn.Module, given: Tensor, dynamo: bool) -> Any:
    """What ONNX Runtime computes from what torch exports."""
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    if dynamo:
        pytest.importorskip("onnxscript")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(model, (given,), dynamo=True, verbose=False).save(file)
        else:
            torch.onnx.export(model, (given,), file, dynamo=False, opset_version=18)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: given.numpy()})[0]


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_computes_the_same_by_the_older_exporter(name: str) -> None:
    """The other one is what `pomt_edge.export` uses, and tested there."""
    found = run_onnx(reduced(name), BATCH, dynamo=False)
    np.testing.assert_allclose(found, logits(name).numpy(), rtol=0, atol=1e-4)


class Ranks(nn.Module):
    def forward(self, score: Tensor) -> Tensor:
        return ranked_by(score)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_onnx_runtime_breaks_ties_as_torch_does(exporter: str) -> None:
    score = torch.tensor([list(itertools.islice(itertools.cycle([1.0, 3, 0, 3, 2]), 500)), [1.0] * 500])
    assert (run_onnx(Ranks(), score, EXPORTERS[exporter]) == Ranks()(score).numpy()).all()
    assert Ranks()(score)[1].tolist() == list(range(500))
