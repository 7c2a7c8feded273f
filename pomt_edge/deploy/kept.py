"""Engine files of an earlier start: an interrupted deployment goes on with the very engine that it had measured.

Two builds of one graph may differ by some percent, so that a new one would not continue the old one's measurements.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pomt_edge.engines import BuildOptions, Built, Setting
from pomt_edge.export import files
from pomt_edge.records import write_text


def key(source: Path, setting: Setting, version: str | None, options: BuildOptions) -> dict[str, Any]:
    """What an engine file depends on."""
    return {
        "onnx": files.sha256(source),
        "setting": dataclasses.asdict(setting),
        "version": version,
        "workspace_mib": options.workspace_mib,
    }


def find(options: BuildOptions, wanted: Mapping[str, Any]) -> tuple[Built, float] | None:
    """The engine that was built of the same, and the seconds that took; None: there is none, or it was changed."""
    try:
        known = json.loads(_file(options).read_text(encoding="utf-8"))
        artefact = options.folder / known["artefact"]
        if known["key"] != dict(wanted) or files.sha256(artefact) != known["sha256"]:
            return None
        log = options.folder / known["log"] if known["log"] else None
        built = Built(artefact, known["seconds"], known["size_mib"], known["precision"], known["kernels"], log)
        return built, float(known["seconds"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def keep(options: BuildOptions, wanted: Mapping[str, Any], built: Built, seconds: float) -> None:
    """Note what an engine's own file was built of."""
    if not isinstance(built.artefact, Path) or built.artefact.parent != options.folder:
        return
    facts = {
        "key": dict(wanted),
        "artefact": built.artefact.name,
        "sha256": files.sha256(built.artefact),
        "seconds": seconds,
        "size_mib": built.size_mib,
        "precision": built.precision,
        "kernels": dict(built.kernels),
        "log": built.log.name if built.log else None,
    }
    write_text(_file(options), json.dumps(facts, indent=2) + "\n")


def _file(options: BuildOptions) -> Path:
    return options.folder / f"{options.name}.build.json"
