"""The sessions of a sweep: each token count's model made ready on the engine, built once, kept while memory lasts."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from pomt_edge.engines import BuildOptions, Built, Engine, Session, Setting
from pomt_edge.export import files, pipeline
from pomt_edge.machine import facts, gpu, nvidia_facts
from pomt_edge.machine.system import System
from pomt_edge.measure.progress import Progress
from pomt_edge.records import Kept

if TYPE_CHECKING:
    from onnx import ModelProto

Variant = Callable[[int], nn.Module]
"""From a token count to the model that leaves so many; all share one model's weights."""
Variants = Callable[[Kept], nn.Module]
"""The same, and from a schedule to the model that follows it."""
Calibration = Callable[[], Iterable[np.ndarray[Any, Any]]]
"""Batches of images for int8, from the first each time."""
LEAST_FREE = 0.25
"""Share of the memory that stays available to whatever else the machine does."""


class Sessions:
    """From a token count to its session.

    Modules share their weights, so that their sessions cost next to nothing. Engines that take ONNX hold a copy of
    the weights per session: when memory runs short the one that was used longest ago goes for each that comes, and is
    loaded again, from what was built, when its turn is. The unreduced model's, the anchor, always stays.
    """

    def __init__(
        self,
        engine: Engine,
        variant: Variants,
        setting: Setting,
        anchor: int,
        calibration: Calibration | None = None,
        system: System | None = None,
    ) -> None:
        """`anchor`: the tokens of the unreduced model."""
        self.engine = engine
        self.setting = setting
        self._variant = variant
        self._anchor = anchor
        self._calibration = calibration
        self._system = system or System()
        self._built: dict[Kept, Built] = {}
        self._loaded: dict[Kept, Session] = {}  # in the order of use, the latest last
        self._shared: files.Shared | None = None

    def __call__(self, tokens: Kept) -> Session:
        """The session of a count, or of a schedule; built and loaded if it is not there."""
        session = self._loaded.pop(tokens, None) or self._load(tokens)
        self._loaded[tokens] = session
        return session

    def prepare(self, counts: Sequence[int], progress: Progress) -> None:
        """Build and load what will be measured before that begins: a build between two blocks heats the second."""
        missing = [tokens for tokens in counts if tokens not in self._built]
        if (self.engine.TAKES == "module" and not self.setting.compile) or not missing:
            return
        title = "compiling" if self.engine.TAKES == "module" else "exporting to ONNX and building"
        progress.stage(f"{title}, token counts", len(missing))
        for tokens in missing:
            self(tokens)
            progress.advance(f"{tokens} tokens")

    def close(self) -> None:
        """Let go of all sessions, and remove what was exported and built."""
        self._loaded.clear()
        self._built.clear()
        if self._shared is not None:
            self._remove()
            self._shared = None

    def __enter__(self) -> Sessions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, tokens: Kept) -> Session:
        built = self._built.get(tokens)
        if built is None:
            built = self._built[tokens] = self._build(tokens)
        droppable = [loaded for loaded in self._loaded if loaded != self._anchor]
        if self.engine.TAKES == "onnx" and droppable and self._memory_is_short():
            del self._loaded[droppable[0]]
        return self.engine.load(built, self.setting)

    def _build(self, tokens: Kept) -> Built:
        model = self._variant(tokens)
        name = f"tokens{tokens}" if isinstance(tokens, int) else f"removed{'-'.join(map(str, tokens))}"
        if self.engine.TAKES == "module":
            return self.engine.build(model, self.setting, BuildOptions(Path(), name))
        files = self._files()
        path = files.write(self._exported(model), name)
        return _without_log(self.engine.build(path, self.setting, BuildOptions(files.folder, name)))

    def _exported(self, model: nn.Module) -> ModelProto:
        return pipeline.deployable(
            model,
            batch_size=self.setting.batch_size,
            image_px=self.setting.image_px,
            precision=self.setting.precision,
            target=self.engine.target(),
            calibration=self._calibration() if self._calibration else None,
        )

    def _files(self) -> files.Shared:
        if self._shared is None:
            folder = tempfile.mkdtemp(prefix="pomt-edge-")
            # However the process ends, short of a kill.
            self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._shared = files.Shared(folder)
        return self._shared

    def _memory_is_short(self) -> bool:
        pairs = [(facts.available_memory_mib(self._system), facts.total_memory_mib(self._system))]
        if self.setting.device.startswith("cuda"):
            device = gpu.handle(self.setting.device, self.engine.gpu_uuid(self.setting.device))
            if device is not None:
                pairs.append((nvidia_facts.free_memory_mib(device), nvidia_facts.total_memory_mib(device)))
        return any(free is not None and total is not None and free < LEAST_FREE * total for free, total in pairs)


def _without_log(built: Built) -> Built:
    """A builder tells megabytes of each of hundreds of counts; only of one that fails they are worth their place."""
    if built.log is not None:
        built.log.unlink(missing_ok=True)
    return dataclasses.replace(built, log=None)
