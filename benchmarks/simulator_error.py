"""How far the simulator is off: fitted on some recorded curves of an H200, checked on the others.

    python benchmarks/simulator_error.py           check the constants as they are, write pomt_edge/simulator/error.json
    python benchmarks/simulator_error.py --fit     fit them first, and each curve by the others as well (minutes)

The fixed sizes of other boards, and pruning in a block (the curves slice tokens off at the input), take part in no fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import differential_evolution

from pomt_edge import profiles, records
from pomt_edge.reduce import method
from pomt_edge.simulator import asked, constants, error
from pomt_edge.simulator.constants import Constants
from pomt_edge.simulator.device import Way
from pomt_edge.simulator.geometry import Geometry, Reduction
from pomt_edge.simulator.model import Simulator

FOLDER = Path(constants.__file__).parent
CURVES: list[dict[str, Any]] = json.loads((FOLDER / "recorded" / "h200.json").read_text())["curves"]
REDUCTIONS: dict[str, Any] = json.loads((FOLDER / "reductions.json").read_text())
FITTED_ON = (0, 1, 3)
"""DeiT-S batch 4 in both precisions and DeiT-B batch 16. Left for the check: two other batches and a larger model."""
GEOMETRIES = {
    "deit_small_patch16_224": Geometry(12, 384, 6, 1536, 16, 224),
    "deit_base_patch16_224": Geometry(12, 768, 12, 3072, 16, 224),
    "vit_large_patch16_224": Geometry(24, 1024, 16, 4096, 16, 224),
}
PRECISIONS = {"float32": "fp32", "float16": "fp16"}
RANGES = {
    "mma_efficiency": (0.3, 1.0),
    "tf32_efficiency": (0.1, 1.0),
    "load_bytes_per_clock": (20, 128),
    "step_clocks": (20, 600),
    "tile_clocks": (200, 8000),
    "gemm_clocks": (200, 8000),
    "pass_clocks": (200, 6000),
    "attention_clocks": (500, 12000),
    "attention_efficiency": (0.05, 0.8),
    "attention_tf32_efficiency": (0.01, 0.5),
    "split_clocks": (200, 12000),
    "l2_bytes_per_clock": (8, 64),
    "convolution_efficiency": (0.004, 0.2),
}
CLIFF = 0.04
STEP_WEIGHT = 2.0
"""In the fit, of a change over four tokens against a level."""
NANO = {"engine": "trt", "batch_size": 1}
EAGER = {"engine": "torch", "precision": "fp32", "cuda_graphs": False}
FIXED: list[tuple[str, dict[str, Any], bool, float]] = [
    ("jetson_orin_nano_super", {**NANO, "precision": "fp32"}, True, 13.06),
    ("jetson_orin_nano_super", {**NANO, "precision": "fp16"}, False, 5.68),
    ("jetson_orin_nano_super", {**NANO, "precision": "int8"}, False, 4.92),
    ("a100", {**EAGER, "batch_size": 1}, False, 9.3),
    ("a100", {**EAGER, "batch_size": 4}, False, 14.8),
    ("a100", {**EAGER, "batch_size": 16}, False, 40.9),
]
"""ViT-B/16: what `--device sim:` is asked for, whether in TF32, and published milliseconds.

The Nano's 13.06 ms are too fast for fp32 without TF32, and this package's engines never use that: of no setting of its
own. Those of the A100 name no precision: fp32 without TF32 is PyTorch's default.
"""

Floats = NDArray[np.float64]


def recorded_way(of: dict[str, Any]) -> Way:
    """How the recorded figures were made; their fp32 is TF32."""
    return Way(PRECISIONS[of["precision"]], of["batch_size"], "graph", tf32=True)


def predicted(curve: dict[str, Any], assumed: Constants | None = None) -> Floats:
    simulator = Simulator(profiles.load("h200"), GEOMETRIES[curve["model"]], recorded_way(curve), assumed=assumed)
    return simulator.latency_ms(curve["tokens"])


def cliffs(latency: Floats, threshold: float = CLIFF) -> list[int]:
    """Where one token fewer is faster by more than the threshold; places in a curve of falling counts."""
    return [place + 1 for place, change in enumerate(latency[1:] / latency[:-1] - 1) if change < -threshold]


def lasting(latency: Floats) -> list[int]:
    """The cliffs below which it stays faster: medians of four counts on both sides differ by more than half of it."""
    found = []
    for place in cliffs(latency):
        above, below = latency[max(place - 4, 0) : place], latency[place : place + 4]
        if np.median(below) / np.median(above) - 1 < -CLIFF / 2:
            found.append(place)
    return found


def near(places: Sequence[int], others: Sequence[int]) -> int:
    return sum(any(abs(place - other) <= 1 for other in others) for place in places)


def judged(curve: dict[str, Any], assumed: Constants | None = None) -> dict[str, Any]:
    """One curve's figures."""
    real, model = np.array(curve["median_ms"]), predicted(curve, assumed)
    tokens = curve["tokens"]
    off = 100 * np.abs(model / real - 1)
    found, true, stay = cliffs(model), cliffs(real), lasting(real)
    smaller = cliffs(model, CLIFF / 2)
    chance = len({place + shift for place in found for shift in (-1, 0, 1)}) / len(tokens)
    return {
        "curve": f"{curve['model']}, batch {curve['batch_size']}, {PRECISIONS[curve['precision']]}",
        "median_percent": round(float(np.median(off)), 1),
        "p90_percent": round(float(np.percentile(off, 90)), 1),
        "cliffs": len(true),
        "cliffs_predicted": near(true, found),
        "cliffs_by_chance": round(chance * len(true), 2),
        "lasting_cliffs": len(stay),
        "lasting_cliffs_predicted": near(stay, found),
        "predicted": len(found),
        "predicted_that_are_real": near(found, true),
        "predicted_over_half": len(smaller),
        "cliffs_predicted_over_half": near(true, smaller),
        "cliffs_at_tokens": [tokens[place] for place in true],
        "predicted_at_tokens": [tokens[place] for place in found],
    }


def together(
    judgements: Sequence[dict[str, Any]], curves: Sequence[dict[str, Any]], assumed: Any = None
) -> dict[str, Any]:
    """The same over several curves, every token count counted once; `assumed`: constants, or one set per curve."""
    sets = assumed if isinstance(assumed, list) else [assumed] * len(curves)
    off = [np.abs(predicted(curve, own) / curve["median_ms"] - 1) for curve, own in zip(curves, sets, strict=True)]
    all_off = 100 * np.concatenate(off)
    counts = [name for name, value in judgements[0].items() if isinstance(value, int) or name == "cliffs_by_chance"]
    return {
        "median_percent": round(float(np.median(all_off)), 1),
        "p90_percent": round(float(np.percentile(all_off, 90)), 1),
    } | {name: round(sum(judgement[name] for judgement in judgements), 2) for name in counts}


def loss(values: Floats, curves: Sequence[dict[str, Any]]) -> float:
    """Mean error of the logarithm, and of its change over four tokens, where the steps are."""
    assumed = constants.with_fitted(dict(zip(RANGES, values, strict=True)))
    total = 0.0
    for curve in curves:
        real, model = np.log(curve["median_ms"]), np.log(predicted(curve, assumed))
        total += float(np.abs(model - real).mean())
        total += STEP_WEIGHT * float(np.abs((model[4:] - model[:-4]) - (real[4:] - real[:-4])).mean())
    return total / len(curves)


def fit(curves: Sequence[dict[str, Any]], rounds: int) -> dict[str, float]:
    found = differential_evolution(
        loss, list(RANGES.values()), args=(curves,), seed=0, maxiter=rounds, popsize=6, polish=False, tol=1e-6
    )
    return {name: _rounded(value) for name, value in zip(RANGES, found.x, strict=True)}


def _rounded(value: float) -> float:
    return round(float(value), 3 - math.ceil(math.log10(abs(value))))


def reduced_in_a_block() -> dict[str, Any]:
    """Ratios of a model that prunes in a block to the unreduced one, real and simulated."""
    h200, block, rows = profiles.load("h200"), REDUCTIONS["block"], []
    for setting in REDUCTIONS["settings"]:
        geometry, way = GEOMETRIES[setting["model"]], recorded_way(setting)
        plain = float(Simulator(h200, geometry, way).latency_ms([geometry.tokens])[0])
        for name, real in setting["ratio"].items():
            reduction = Reduction((block,), explicit_attention=method.load(name).needs_attention)
            left = geometry.tokens - setting["removed"]
            model = float(Simulator(h200, geometry, way, reduction).latency_ms([left])[0]) / plain
            rows.append(
                {
                    "setting": f"{setting['model']}, batch {way.batch_size}, {way.precision}, {name}",
                    "removed": setting["removed"],
                    "ratio": real,
                    "simulated": round(model, 3),
                    "off_percent": round(100 * (model / real - 1), 1),
                }
            )
    off = [abs(row["off_percent"]) for row in rows]
    return {
        "measured_on": REDUCTIONS["measured_on"],
        "median_percent": round(float(np.median(off)), 1),
        "most_percent": max(off),
        "ratios": len(rows),
        "too_fast": sum(row["simulated"] < row["ratio"] for row in rows),
        "rows": rows,
    }


def fixed_sizes() -> list[dict[str, Any]]:
    rows = []
    for name, wishes, in_tf32, published in FIXED:
        profile = profiles.load(name)
        way = dataclasses.replace(asked.way_of(profile, **wishes), tf32=in_tf32)
        model = Simulator(profile, GEOMETRIES["deit_base_patch16_224"], way).latency_ms([197])[0]
        rows.append(
            {
                "device": name,
                "way": f"{way.precision}{' (TF32)' if in_tf32 else ''}, batch {way.batch_size}, {way.launch}",
                "as_the_toolkit_runs_it": not in_tf32,
                "published_ms": published,
                "simulated_ms": round(float(model), 2),
                "off_percent": round(100 * (float(model) / published - 1), 1),
            }
        )
    return rows


def write_fitted(values: dict[str, float]) -> None:
    path = FOLDER / "constants.toml"
    text = path.read_text()
    for name, value in values.items():
        text = re.sub(rf"^{name} = \S+", f"{name} = {value}", text, flags=re.MULTILINE)
    records.write_text(path, text)
    constants._file.cache_clear()
    constants.constants.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    path = FOLDER / error.NAME
    left_out = json.loads(path.read_text()).get("each_by_the_others") if path.exists() else None
    if options.fit:
        write_fitted(fit([CURVES[index] for index in FITTED_ON], options.rounds))
        left_out = each_by_the_others(options.rounds // 2)
    data = computed() | {"each_by_the_others": left_out}
    records.write_text(path, json.dumps(data, indent=1) + "\n")
    print(json.dumps(data, indent=1))


def computed() -> dict[str, Any]:
    """All that is published, of the constants as they are; what needs fitting is left out."""
    fit_curves = [CURVES[index] for index in FITTED_ON]
    check_curves = [curve for index, curve in enumerate(CURVES) if index not in FITTED_ON]
    judgements = {"fit": [judged(curve) for curve in fit_curves], "check": [judged(curve) for curve in check_curves]}
    return {
        "measured_on": "NVIDIA H200, PyTorch 2.11, CUDA graphs, tokens sliced before block 0",
        "cliff_percent": 100 * CLIFF,
        "fit": together(judgements["fit"], fit_curves),
        "check": together(judgements["check"], check_curves),
        "curves": judgements,
        error.REDUCED: reduced_in_a_block(),
        "fixed_sizes": fixed_sizes(),
    }


def each_by_the_others(rounds: int) -> dict[str, Any]:
    """Each curve by constants that were fitted without it, in far fewer rounds."""
    sets = []
    for index in range(len(CURVES)):
        others = [curve for other, curve in enumerate(CURVES) if other != index]
        sets.append(constants.with_fitted(fit(others, rounds)))
    judgements = [judged(curve, own) for curve, own in zip(CURVES, sets, strict=True)]
    return {**together(judgements, CURVES, sets), "curves": judgements}


if __name__ == "__main__":
    main()
