"""Predictions compared with measurements: kernels, serving runs, deployments; calibration."""
