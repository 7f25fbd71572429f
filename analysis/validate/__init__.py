"""Predictions beside measurements: kernels, serving runs, deployments; calibration."""
