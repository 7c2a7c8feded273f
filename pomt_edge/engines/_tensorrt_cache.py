"""The timing cache: what TensorRT has measured of each kernel, so that the next build is quick."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import platformdirs

from pomt_edge.engines._tensorrt import Gpu


def place(version: str, gpu: Gpu) -> Path:
    """Timings hold for one version on one kind of GPU."""
    name = re.sub(r"[^\w.]+", "-", f"{version}-{gpu.name}")
    return platformdirs.user_cache_path("pomt-edge") / "tensorrt" / f"{name}.timing"


def use(config: Any, file: Path) -> str | None:
    """Let a build read and extend the cache; what is to be said of it, if anything."""
    try:
        kept = file.read_bytes()
    except OSError:
        kept = b""
    if _set(config, kept):
        return None
    if _set(config, b"") and kept:
        return f"the timing cache {file} could not be read and is written anew"
    return None


def _set(config: Any, content: bytes) -> bool:
    try:
        cache = config.create_timing_cache(content)
        return cache is not None and bool(config.set_timing_cache(cache, ignore_mismatch=False))
    except (RuntimeError, TypeError, ValueError):
        return False


def keep(config: Any, file: Path) -> None:
    """Write what a build has added; a cache that can't be written is none."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(memoryview(cache.serialize()))
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
