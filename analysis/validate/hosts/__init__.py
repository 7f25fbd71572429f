"""Hosts fitted to a measured run (``opbyte calibrate run``)."""

from .result import HostCalibration, calibrate_run

__all__ = ["HostCalibration", "calibrate_run"]
