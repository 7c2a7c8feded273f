"""Every record that crosses a stage: small, frozen, the unit in the field's name, to and from JSON."""

from pomt_edge.records.base import (
    SCHEMA,
    Record,
    RecordError,
    write_text,
)
from pomt_edge.records.chosen import (
    Contest,
    Plan,
    Result,
)
from pomt_edge.records.compared import (
    ComparedPlans,
    ComparedPoint,
    Comparison,
    FieldPair,
)
from pomt_edge.records.deployed import (
    Benchmark,
    Build,
    Deployment,
    File,
    Parity,
    ServeCheck,
    Stage,
)
from pomt_edge.records.fleet import (
    Fleet,
    FleetRun,
)
from pomt_edge.records.measured import (
    MEASURED,
    RECORDED,
    SIMULATED,
    AccuracyCurve,
    AccuracyPoint,
    Cost,
    Environment,
    LatencyCurve,
    LatencyPoint,
    Preprocessing,
    Segment,
    Shift,
    Staircase,
    Steadiness,
    Step,
    power_mode_of,
)

__all__ = [
    "MEASURED",
    "RECORDED",
    "SIMULATED",
    "AccuracyCurve",
    "AccuracyPoint",
    "Benchmark",
    "Build",
    "ComparedPlans",
    "ComparedPoint",
    "Comparison",
    "Contest",
    "Cost",
    "Deployment",
    "Environment",
    "FieldPair",
    "File",
    "Fleet",
    "FleetRun",
    "LatencyCurve",
    "LatencyPoint",
    "Parity",
    "Plan",
    "Preprocessing",
    "Record",
    "RecordError",
    "Result",
    "SCHEMA",
    "Segment",
    "ServeCheck",
    "Shift",
    "Stage",
    "Staircase",
    "Steadiness",
    "Step",
    "power_mode_of",
    "write_text",
]
