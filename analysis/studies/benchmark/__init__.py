"""Benchmarks that people quote, as their rules define them, on any system."""

from ...answers.benchmarks import BENCHMARKS, Benchmark
from .study import BenchmarkResult, benchmark

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkResult", "benchmark"]
