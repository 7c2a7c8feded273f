"""Whose rules a graph has to keep: ONNX Runtime and OpenVINO here, and each TensorRT by its JetPack."""

from __future__ import annotations

from dataclasses import dataclass

from pomt_edge import catalogue


@dataclass(frozen=True)
class Target:
    """What one kind of reader takes; no parser of TensorRT 8 checks the opset, so a wrong graph is misread there."""

    name: str
    title: str
    opset: int
    ir_version: int
    tensorrt: tuple[int, int] | None = None
    """The TensorRT that reads it; None: another engine."""

    @property
    def typed(self) -> bool:
        """Whether precision is in the graph; older TensorRT gets a float32 graph and a flag."""
        return self.tensorrt is None or self.tensorrt >= (10, 12)


TARGETS = {
    target.name: target
    for target in (
        Target("generic", "ONNX Runtime, OpenVINO, TensorRT for RTX", 18, 8),
        Target("jetpack4", "JetPack 4.6, TensorRT 8.2", 13, 7, (8, 2)),
        Target("jetpack5", "JetPack 5.1, TensorRT 8.5", 13, 7, (8, 5)),
        Target("jetpack6", "JetPack 6, TensorRT 10.3", 18, 8, (10, 3)),
        Target("jetpack7", "JetPack 7, TensorRT 10.13", 18, 8, (10, 13)),
    )
}


def named(name: str) -> Target:
    """The target of that name.

    Raises:
        UserError: there is none; the message lists the known ones.
    """
    catalogue.check(name, list(TARGETS), "target")
    return TARGETS[name]


def of_tensorrt(version: tuple[int, int]) -> Target:
    """The rules of an installed TensorRT: those of the newest JetPack whose TensorRT is not newer."""
    jetpacks = [target for target in TARGETS.values() if target.tensorrt is not None]
    fitting = [target for target in jetpacks if target.tensorrt and target.tensorrt <= version]
    return fitting[-1] if fitting else jetpacks[0]
