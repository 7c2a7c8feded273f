"""The steps of a deployment, one after the other; each adds to what was found, and a failed proof ends them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pomt_edge import __version__
from pomt_edge.deploy import benchmark, building, bundle, graphs, proof, serve
from pomt_edge.deploy.graphs import Graph
from pomt_edge.deploy.proof import Yardstick
from pomt_edge.deploy_request import DeployRequest
from pomt_edge.deploy_subject import Subject
from pomt_edge.engines import BuildOptions, Engine, Session, Setting
from pomt_edge.errors import UserError
from pomt_edge.export import files as onnx_files
from pomt_edge.export.target import Target
from pomt_edge.job import graphs_wanted, with_graphs
from pomt_edge.machine.system import System
from pomt_edge.measure import environment
from pomt_edge.measure.clocks import NoLoad
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.measure.timing import StopRule
from pomt_edge.records import Benchmark, Build, Environment, File, Kept, Parity, ServeCheck
from pomt_edge.starting import start
from pomt_edge.targets.local import ClockWishes, LocalTarget

BASELINE, REDUCED = "baseline", "reduced"


@dataclass(frozen=True)
class Work:
    """Everything that is settled before the export."""

    request: DeployRequest
    subject: Subject
    setting: Setting
    engine_name: str
    engine: Engine | None
    """None: the graphs are the result."""
    missing: str | None
    """Why the engine can't be used here, or None."""
    target: Target
    folder: Path

    @property
    def exports(self) -> bool:
        """Whether there are graphs: the engine takes them, or a board is to."""
        return self.engine is None or self.engine.TAKES == "onnx" or self.request.bundle is not None

    @property
    def graph_precision(self) -> str:
        """What the graphs are written in; an older TensorRT gets float32 and a flag, but the scales of int8."""
        precision = self.setting.precision
        return precision if self.target.typed or precision == "int8" else "fp32"

    @property
    def configuration(self) -> dict[str, Any]:
        """What has to be the same for measurements to belong together."""
        request, subject = self.request, self.subject
        return {
            "model": subject.created.name,
            "weights": subject.created.weights,
            "num_classes": subject.plan.num_classes,
            "schedule": list(subject.plan.schedule),
            "method": subject.plan.method,
            "engine": self.engine_name,
            "engine_version": self.engine.version() if self.engine and not self.missing else None,
            "target": self.target.name,
            **dataclasses.asdict(self.setting) | {"cuda_graphs": request.cuda_graphs},
            "workspace_mib": request.workspace_mib,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "dynamic_batch": request.dynamic_batch,
            "interval_percent": request.interval_percent,
            "point_seconds": request.point_seconds,
            "pomt_edge": __version__,
        }


@dataclass
class Found:
    """What the deployment has found out so far."""

    files: tuple[File, ...] = ()
    opset: int = 0
    parities: tuple[Parity, ...] = ()
    builds: tuple[Build, ...] = ()
    benchmark: Benchmark | None = None
    serve: ServeCheck | None = None
    environment: Environment | None = None

    unproven: tuple[str, ...] = ()
    """Graphs that nothing here could run."""

    @property
    def failed(self) -> bool:
        return not all(parity.passed for parity in self.parities)


def _no_session(tokens: Kept) -> Session:
    raise NoLoad("nothing is built yet")


class Steps:
    """Export, prove, bundle, build, prove again, measure."""

    def __init__(self, work: Work, journal: Journal, scratch: Path, progress: Progress) -> None:
        self.work = work
        self.found = Found()
        self.missing = work.missing
        self.bundle: Path | None = None
        """Where it was written."""
        self._setting = work.setting
        self._journal = journal
        self._scratch = scratch
        self._progress = progress
        self._graphs: dict[str, Graph] = {}
        self._further: dict[str, Path] = {}
        subject = work.subject
        models = {BASELINE: subject.baseline, REDUCED: subject.reduced}
        self._models: dict[str, nn.Module] = {name: model for name, model in models.items() if model is not None}

    def run(self) -> None:
        """All steps; stops where a proof fails or the engine is not here."""
        self._progress.busy("computing what torch makes of the images")
        subject = self.work.subject
        self._yardsticks = {
            name: Yardstick.of(name, model, subject.batches, subject.real_images)
            for name, model in self._models.items()
        }
        if self.work.exports:
            self._export()
            self._prove_graphs()
            self._export_further()
        if self.found.failed:
            return
        engine = self.work.engine
        sessions = self._build(engine) if engine and not self.missing else {}
        if sessions and engine:
            self._prove_engine(engine, sessions)
        if self.found.failed:
            return
        if self.work.request.bundle is not None or (self.missing and self._graphs):
            self._write_bundle()
        if sessions and engine:
            self._measure(engine, sessions)

    def _wanted(self) -> graphs.Wanted:
        work = self.work
        return graphs.Wanted(
            work.setting.batch_size,
            work.setting.image_px,
            work.graph_precision,
            work.target,
            work.request.dynamic_batch,
            work.subject.facts(work.setting.precision),
            work.subject.calibration,
        )

    def _export(self) -> None:
        self._progress.stage("exporting to ONNX", len(self._models))
        for name, model in self._models.items():
            graph = graphs.export(name, model, self._wanted(), self.work.folder, self._scratch)
            self._graphs[name] = graph
            self.found.opset = graph.opset
            for path in sorted(graph.file.parent.glob(f"{graph.file.name}*")):
                self._list(path)
            self._progress.advance(name)

    def _list(self, path: Path) -> None:
        """Among the deployment's files; one that was written again is listed once."""
        others = tuple(file for file in self.found.files if file.name != path.name)
        self.found.files = (*others, File(path.name, onnx_files.sha256(path), path.stat().st_size))

    def _prove_graphs(self) -> None:
        """By ONNX Runtime, unless it is the engine itself, which is proven then."""
        if self.work.engine_name == "onnxruntime" and not self.missing:
            return
        self._progress.stage("proving the graphs", len(self._graphs))
        for name, graph in self._graphs.items():
            self._prove_graph(self._yardsticks[name], graph)
            self._progress.advance(name)

    def _prove_graph(self, yardstick: Yardstick, graph: Graph) -> None:
        parity = proof.of_graph(yardstick, graph, self.work.graph_precision)
        if parity is None:
            self.found.unproven += (graph.variant,)
        else:
            self.found.parities += (parity,)

    def _export_further(self) -> None:
        """The bundle's further counts; now, because a module engine may turn the model into half precision."""
        plan, subject = self.work.subject.plan, self.work.subject
        for tokens in self.work.request.further_counts():
            if tokens not in (plan.tokens_in, plan.tokens_out):
                self._progress.busy(f"exporting and proving {tokens} tokens")
                name, model = f"tokens_{tokens}", subject.with_tokens(tokens)
                graph = graphs.export(name, model, self._wanted(), self._scratch, self._scratch)
                self._prove_graph(Yardstick.of(name, model, subject.batches, subject.real_images), graph)
                self._further[name] = graph.file

    def _build(self, engine: Engine) -> dict[str, Session]:
        """The engine's sessions; none where it turns out to be able to build here and not to run."""
        sources: dict[str, nn.Module | Path] = {name: graph.file for name, graph in self._graphs.items()}
        # In place: the reduced model shares the weights.
        prepared = {name: engine.prepare(model, self._setting) for name, model in self._models.items()}
        wanted = graphs_wanted(self.work.request.cuda_graphs, self.work.engine_name)
        models = list(prepared.values())
        self._setting = with_graphs(wanted, engine, self._setting, models, self._progress)
        if engine.TAKES == "module":
            sources = dict(prepared)
        self._progress.stage(f"building for {self.work.engine_name}", len(sources))
        sessions: dict[str, Session] = {}
        with self._clocks_held(engine):
            for name, source in sources.items():
                made = self._made(name, engine, source)
                if made:
                    sessions[name] = made
                self._progress.advance(name)
        return {} if self.missing else sessions

    def _made(self, name: str, engine: Engine, source: nn.Module | Path) -> Session | None:
        """A variant's session; None where it can be built here and not run."""
        session = None
        try:
            made = building.make(name, engine, source, self._setting, self._options(name), self.work.request.builds)
        except building.BuiltOnly as here:
            self.missing = str(here)
            self.found.builds += here.builds
        else:
            session = made.session
            self.found.builds += made.builds
        for path in (self.work.folder / f"{name}.engine", self.work.folder / f"{name}.build.log"):
            if path.exists():
                self._list(path)
        return session

    def _clocks_held(self, engine: Engine) -> contextlib.AbstractContextManager[object]:
        """TensorRT chooses kernels by their speed at the clocks of then; they are verified when it is measured."""
        if not self.work.request.lock or engine.TAKES != "onnx":
            return contextlib.nullcontext()
        target = self._target(engine, _no_session, self.work.subject.plan.tokens_in)
        return target.held(lock=True, required=False, tell=self._progress.note)

    def _target(self, engine: Engine, session: Callable[[Kept], Session], most_tokens: int) -> LocalTarget:
        request, device = self.work.request, self._setting.device
        wishes = ClockWishes(request.power_mode, request.gpu_clock_mhz)
        return LocalTarget(session, device, most_tokens, wishes, System(request.sysroot), engine.gpu_uuid(device))

    def _options(self, name: str, folder: Path | None = None) -> BuildOptions:
        workspace = self.work.request.workspace_mib
        return BuildOptions(folder or self.work.folder, name, workspace, self._progress.busy)

    def _prove_engine(self, engine: Engine, sessions: dict[str, Session]) -> None:
        def load(file: Path, name: str) -> Session:
            return engine.load(engine.build(file, self._setting, self._options(name, self._scratch)), self._setting)

        self._progress.stage(f"proving {self.work.engine_name}", len(sessions))
        for name, session in sessions.items():
            graph = self._graphs.get(name) if engine.TAKES == "onnx" else None
            own = (self._yardsticks[name], self.work.engine_name, self._setting.precision, session, graph, load)
            self.found.parities += (proof.of_engine(*own),)
            self._progress.advance(name)

    def _write_bundle(self) -> None:
        work, plan = self.work, self.work.subject.plan
        folder = work.request.bundle or work.folder / "bundle"
        files = {name: graph.file for name, graph in self._graphs.items()} | self._further
        precision = work.setting.precision
        facts = work.subject.facts(precision) | {
            "batch_size": work.setting.batch_size,
            "dynamic_batch": work.request.dynamic_batch,
            "workspace_mib": work.request.workspace_mib,
            "proven": {name: "" if name in self.found.unproven else "onnxruntime" for name in files},
            "float32_layers": [] if work.target.typed else graphs.float32_layers(files.values(), precision),
        }
        bundle.write(folder, plan=plan, graphs=files, target=work.target, precision=precision, facts=facts)
        self.bundle = folder
        self._progress.note(f"bundle for a board: {folder}")

    def _measure(self, engine: Engine, sessions: dict[str, Session]) -> None:
        plan, request, setting = self.work.subject.plan, self.work.request, self._setting
        counts = tuple(dict.fromkeys((plan.tokens_in, plan.tokens_out)))
        by_count: dict[Kept, Session] = dict(zip(counts, sessions.values(), strict=True))
        target = self._target(engine, by_count.__getitem__, counts[0])
        rule = StopRule(request.interval_percent, request.point_seconds)
        inputs = {"weights": self.work.subject.created.weights, "method": plan.method}
        with contextlib.ExitStack() as locks:
            progress, journal, name = self._progress, self._journal, self.work.engine_name
            self.found.benchmark = benchmark.measure(
                target,
                target.timer,
                counts,
                rule,
                setting.batch_size,
                journal,
                progress,
                lambda: start(request, target, setting, name, inputs, journal, progress, locks) | self._same(target),
            )
            self._serve(sessions)
        kept = [entry["environment"] for entry in self._journal.entries if "environment" in entry]
        self.found.environment = Environment.from_dict(kept[-1])

    def _same(self, target: LocalTarget) -> dict[str, Any]:
        """What else has to stay the same through a run: another build of an engine is another engine."""
        engines = {file.name: file.sha256 for file in self.found.files if file.name.endswith(".engine")}
        return {"timer": target.timer, "device": environment.device_name(self._setting.device), "engines": engines}

    def _serve(self, sessions: dict[str, Session]) -> None:
        request = self.work.request
        if request.serve_check is None or REDUCED not in sessions:
            return
        self._progress.busy("serving images")
        preprocessing = self.work.subject.preprocessing
        batch_size = self._setting.batch_size
        try:
            self.found.serve = serve.serve_check(request.serve_check, sessions, preprocessing, batch_size)
        except UserError as error:  # what was measured before is worth keeping
            self._progress.note(str(error))
