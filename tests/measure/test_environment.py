"""The record of where a number comes from: on this machine, on boards that are folders, and without serials."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import boards
import pytest
import samples
import torch

from pomt_edge.engines import Setting
from pomt_edge.machine import jetson_facts, system
from pomt_edge.machine.system import System
from pomt_edge.measure import environment
from pomt_edge.records import Environment
from pomt_edge.report import tables

ON_CPU = Setting("cpu", "fp32", 4, 224)
ON_GPU = Setting("cuda:0", "fp16", 4, 224)
SERIAL = "1320921000000"
UUID = "0f0e1d2c-0000-4000-8000-000000000000"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A GPU as torch and NVML would tell of it, for machines without one."""
    told = SimpleNamespace(
        name="NVIDIA GeForce RTX 3090", major=8, minor=6, multi_processor_count=82, total_memory=24 * 2**30, uuid=UUID
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: told)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: told.name)
    monkeypatch.syspath_prepend(boards.PYNVML)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    system.nvml.cache_clear()
    yield told
    system.nvml.cache_clear()
    sys.modules.pop("pynvml", None)


def speak_of(board: boards.Board, monkeypatch: pytest.MonkeyPatch) -> System:
    for name in ("PATH", "FAKE_BOARD"):
        monkeypatch.setenv(name, board.env[name])
    return System(board.root)


def test_this_machine_is_described_and_the_record_reads_back() -> None:
    here = environment.describe(ON_CPU, "torch")
    assert (here.device, here.engine, here.precision, here.batch_size) == ("cpu", "torch", "fp32", 4)
    assert here.versions["torch"] == torch.__version__ and here.threads == torch.get_num_threads()
    assert {"torchvision", "timm", "numpy", "scipy"} <= here.versions.keys()
    assert here.details["cpus"] == os.cpu_count() and here.details["cpu_affinity"]
    assert {"container", "virtual_machine", "load_before", "heap"} <= here.details.keys()
    assert Environment.from_dict(json.loads(here.to_json())) == here


def test_an_optional_library_is_recorded_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "tensorrt_rtx_cu13_bindings-1.7.1.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: tensorrt_rtx_cu13_bindings\nVersion: 1.7.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert environment.describe(ON_CPU, "torch").versions["tensorrt_rtx"] == "1.7.1"
    metadata.unlink()
    metadata.parent.rmdir()
    assert "1.7.1" not in environment.describe(ON_CPU, "torch").versions.values()


def test_a_pcs_gpu_is_described_and_neither_serial_nor_uuid_is(
    gpu: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = boards.make("desktop", tmp_path / "board")
    board.change_nvidia(processes=[[os.getpid(), 2**30], [4242, 2**31]])
    here = speak_of(board, monkeypatch)
    gpu.name = f"NVIDIA GeForce RTX 3090 {SERIAL}"
    zone = board.path("/sys/class/thermal/thermal_zone0/type")
    zone.write_text(f"sensor-GPU-{UUID}")
    described = environment.describe(ON_GPU, "torch", here)
    described.save(tmp_path / "environment.json")
    written = (tmp_path / "environment.json").read_text()
    assert SERIAL in json.dumps(board.nvidia) and UUID in json.dumps(board.nvidia), "the driver tells both"
    assert SERIAL not in written and UUID not in written
    assert described.device_name == "NVIDIA GeForce RTX 3090 (redacted)"
    details = described.details
    assert details["driver"] == "560.35.03" and details["power_limit_w"] == 350 and details["sm_count"] == 82
    assert details["clocks_seen"] == {"cpu_mhz": 800, "gpu_mhz": 210, "memory_mhz": 405}
    assert details["temperatures_c"] == {"sensor-(redacted)": 41.0, "gpu": 41.0}
    assert details["gpu_processes"] == {"count": 1, "memory_mib": 2048}
    assert details["governor"] == "powersave" and details["boost"] is True


def test_a_jetson_is_described_although_its_nvml_answers_nothing(
    gpu: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", mode="15W")
    here = speak_of(board, monkeypatch)
    gpu.name, gpu.major, gpu.minor, gpu.multi_processor_count = "Orin", 8, 7, 6
    serial = board.path("/proc/device-tree/serial-number")
    serial.write_text("1423721099999\0")
    details = environment.describe(ON_GPU, "torch", here).details
    assert (details["l4t"], details["jetpack"], details["power_mode"]) == ("36.4.3", "6", "15W")
    assert details["board"] == "NVIDIA Jetson AGX Orin Developer Kit" and details["sm_count"] == 6
    assert details["clocks_seen"]["gpu_mhz"] == 306 and details["temperatures_c"]["GPU-therm"] == 43.0
    assert not {"power_limit_w", "gpu_processes"} & details.keys(), "what it does not tell is absent"
    assert "1423721099999" not in json.dumps(details)


def test_the_boards_own_files_come_before_jetson_stats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("orin_nano_super", tmp_path / "board")
    here = speak_of(board, monkeypatch)
    board.path(jetson_facts.JTOP_SOCKET).parent.mkdir()
    board.path(jetson_facts.JTOP_SOCKET).touch()
    memory = next(board.path(path) for path in jetson_facts.EMC_RATES_HZ if board.path(path).exists())
    memory.unlink()
    (tmp_path / "jtop.py").write_text(
        """
from contextlib import contextmanager
from types import SimpleNamespace
@contextmanager
def jtop():
    yield SimpleNamespace(
        ok=lambda: True,
        board={"hardware": {"Jetpack": "6.2.1"}},
        gpu={"gpu": {"freq": {"cur": 999_000}}},
        memory={"EMC": {"cur": 2_133_000}},
        temperature={"CPU-therm": {"online": True, "temp": 99.0}, "tj": {"online": True, "temp": 50.0}},
        nvpmodel=SimpleNamespace(name="other"),
    )
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    details = environment.describe(ON_CPU, "torch", here).details
    assert details["jetpack"] == "6.2.1" and details["clocks_seen"]["memory_mhz"] == 2133, "the board does not say"
    assert details["clocks_seen"]["gpu_mhz"] == 306 and details["power_mode"] == "25W"
    assert details["temperatures_c"]["CPU-therm"] == 45.5 and details["temperatures_c"]["tj"] == 50.0


def test_the_page_shows_every_fact_as_a_row_of_text(
    gpu: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = boards.make("desktop", tmp_path / "board")
    described = environment.describe(ON_GPU, "torch", speak_of(board, monkeypatch))
    rows = dict(tables.environment_rows(dataclasses.replace(samples.staircase(), environment=described)))
    assert rows["clocks seen, gpu mhz"] == "210" and rows["temperatures c, gpu"] == "41"
    assert rows["power limit w"] == "350" and rows["gpu processes, count"] == "0" and rows["boost"] == "yes"
    assert not [text for text in rows.values() if text.startswith("{")]
