"""An analytic model of the latency of a Vision Transformer on a device that is not here; it says so of itself."""

from pomt_edge.simulator.device import Way
from pomt_edge.simulator.error import published_error
from pomt_edge.simulator.geometry import Geometry, Reduction
from pomt_edge.simulator.model import Simulator
from pomt_edge.simulator.noise import Noise

__all__ = ["Geometry", "Noise", "Reduction", "Simulator", "Way", "published_error"]
