"""From an ONNX file to an engine file, with TensorRT of any version or TensorRT for RTX."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pomt_edge.engines import BuildOptions, Built, Setting, _tensorrt_cache, _tensorrt_layers, _tensorrt_weak
from pomt_edge.engines._tensorrt import Library, Messages, listening, logger, on
from pomt_edge.engines._tensorrt_faults import of_build, of_parser
from pomt_edge.engines._tensorrt_progress import Teller, interruptible, monitor
from pomt_edge.errors import Unavailable, UserError
from pomt_edge.export.precision import float32_names

MIB = 2**20
OLD_WORKSPACE_MIB = 1024
"""TensorRT before 8.4 takes none unless it is told; later ones take what the GPU has."""


@dataclass(frozen=True)
class Rules:
    """What depends on the library and the machine."""

    typed: bool
    """Whether the precision is in the graph."""
    capabilities: tuple[str, ...] = ()
    """Members of ComputeCapability to build for; none: the library has no such choice."""
    timing_cache: Path | None = None


def build(library: Library, source: Path, setting: Setting, options: BuildOptions, rules: Rules) -> Built:
    """Build `NAME.engine` beside `NAME.build.log`, which is written as the build goes.

    Raises:
        UserError: the graph is not taken, memory is short, or the products run in another precision than asked.
    """
    if not options.reuse_timings:
        rules = dataclasses.replace(rules, timing_cache=None)
    trt = library.load()
    file, log = options.folder / f"{options.name}.engine", options.folder / f"{options.name}.build.log"
    with open(log, "w", encoding="utf-8") as log_file, listening(trt, log_file) as messages, on(setting.device):
        started = time.perf_counter()
        plan = _Build(library, trt, source, setting, options, rules, messages, log).run()
        seconds = time.perf_counter() - started
    layers = _tensorrt_layers.from_log(messages.layers)
    _tensorrt_layers.check(setting.precision, layers, library.title)
    _write(file, plan)
    return Built(
        artefact=file,
        seconds=seconds,
        size_mib=file.stat().st_size / MIB,
        precision=_tensorrt_layers.precision(layers),
        kernels=_tensorrt_layers.kernels(layers),
        log=log,
    )


def _write(file: Path, plan: Any) -> None:
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_bytes(memoryview(plan))
        os.replace(partial, file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{file} could not be written ({error.strerror}); give another --out") from error


@dataclass
class _Build:
    library: Library
    trt: Any
    source: Path
    setting: Setting
    options: BuildOptions
    rules: Rules
    messages: Messages
    log: Path

    def run(self) -> Any:
        """The serialised engine; it borrows memory of the library."""
        builder = self._builder()
        network = builder.create_network(self._network_flags())
        self._parse(network)
        config = builder.create_builder_config()
        self._configure(builder, network, config)
        with interruptible() as stop:
            if hasattr(self.trt, "IProgressMonitor"):
                config.progress_monitor = monitor(self.trt, Teller(self.options.name, self.options.tell), stop)
            else:
                self.options.tell(f"building {self.options.name}: this takes minutes on a small board")
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            limit_mib = self._workspace_mib(config)
            raise of_build(self.library, self.messages, self.options.name, limit_mib, self.log, self.source)
        if self.rules.timing_cache is not None:
            _tensorrt_cache.keep(config, self.rules.timing_cache)
        return plan

    def _builder(self) -> Any:
        try:
            return self.trt.Builder(logger(self.trt))
        except (TypeError, RuntimeError) as error:  # its factory returned nothing: no driver, or none that fits
            raise Unavailable(
                f"{self.library.title} can't start here ({self.messages.first_error()}); look at the driver"
            ) from error

    def _network_flags(self) -> int:
        """EXPLICIT_BATCH went with the implicit one, which is why a later library has no such flag."""
        wanted = ["EXPLICIT_BATCH"] + (["STRONGLY_TYPED"] if self.rules.typed else [])
        flags = [getattr(self.trt.NetworkDefinitionCreationFlag, name, None) for name in wanted]
        return sum(1 << int(flag) for flag in flags if flag is not None)

    def _parse(self, network: Any) -> None:
        parser = self.trt.OnnxParser(network, logger(self.trt))
        if not parser.parse_from_file(str(self.source)):
            raise of_parser(self.library, parser, self.source)

    def _configure(self, builder: Any, network: Any, config: Any) -> None:
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        # Scores are kept in float32 to rank tokens as torch does; TF32 has the mantissa of fp16.
        config.clear_flag(self.trt.BuilderFlag.TF32)
        self._limit_workspace(config)
        self._allow_batches(builder, network, config)
        self._choose_capabilities(config)
        if not self.rules.typed:
            import onnx

            held = float32_names(onnx.load(str(self.source)), self.setting.precision)
            _tensorrt_weak.ask(self.trt, network, config, self.setting.precision, held)
        if self.rules.timing_cache is not None:
            note = _tensorrt_cache.use(config, self.rules.timing_cache)
            if note:
                self.options.tell(note)

    def _limit_workspace(self, config: Any) -> None:
        wanted_mib = self.options.workspace_mib
        if not hasattr(config, "set_memory_pool_limit"):
            config.max_workspace_size = (wanted_mib or OLD_WORKSPACE_MIB) * MIB
        elif wanted_mib is not None:
            config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, wanted_mib * MIB)

    def _workspace_mib(self, config: Any) -> int | None:
        """The limit that held; None: all memory of the GPU."""
        if not hasattr(config, "set_memory_pool_limit"):
            return int(config.max_workspace_size // MIB)
        return self.options.workspace_mib

    def _allow_batches(self, builder: Any, network: Any, config: Any) -> None:
        """From one image to a whole batch where the graph leaves the batch open, tuned for the whole batch."""
        images = network.get_input(0)
        shape = tuple(images.shape)
        batch, px = self.setting.batch_size, self.setting.image_px
        if -1 not in shape:
            if shape[0] != batch:
                raise UserError(f"{self.source} is for batches of {shape[0]}; give --batch-size {shape[0]}")
            return
        whole = tuple(size if size != -1 else wanted for size, wanted in zip(shape, (batch, 3, px, px), strict=True))
        profile = builder.create_optimization_profile()
        single = (1, *whole[1:]) if shape[0] == -1 else whole
        profile.set_shape(images.name, single, whole, whole)
        config.add_optimization_profile(profile)

    def _choose_capabilities(self, config: Any) -> None:
        if not self.rules.capabilities:
            return
        config.num_compute_capabilities = len(self.rules.capabilities)
        for index, name in enumerate(self.rules.capabilities):
            config.set_compute_capability(getattr(self.trt.ComputeCapability, name), index)
