"""Engines and frames of FPGAs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared

if TYPE_CHECKING:
    from opbyte.devices.checks import engine_of as engine_of
    from opbyte.simulator.fpga.deploy import FpgaDeployment as FpgaDeployment
    from opbyte.simulator.fpga.deploy import deploy_fpga as deploy_fpga
    from opbyte.simulator.fpga.deploy import on_chip_bytes as on_chip_bytes
    from opbyte.simulator.fpga.engine import FrameResult as FrameResult
    from opbyte.simulator.fpga.frames import num_tasks as num_tasks
    from opbyte.simulator.fpga.frames import run_image as run_image
    from opbyte.simulator.fpga.frames import serve_images as serve_images

__all__, __getattr__ = declared(__name__, __file__)
