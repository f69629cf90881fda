"""A stand-in for the provider: simulated market or replay, over Massive's own protocols."""

from .faults import FAULTS, parse_fault
from .options import MAX_SPEED, SimulatorOptions, parse_speed
from .server import Simulator, run

__all__ = ["FAULTS", "MAX_SPEED", "Simulator", "SimulatorOptions", "parse_fault", "parse_speed", "run"]
