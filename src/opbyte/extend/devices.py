"""Links, devices, cost models, published mechanisms and DRAM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared

if TYPE_CHECKING:
    from opbyte.devices.catalog import describe_system as describe_system
    from opbyte.devices.catalog import of_device as of_device
    from opbyte.devices.collectives.plans import CollectivePlan as CollectivePlan
    from opbyte.devices.collectives.plans import usual as usual
    from opbyte.devices.device import SharedMemoryDevice as SharedMemoryDevice
    from opbyte.devices.device import build_device as build_device
    from opbyte.devices.dram.pim import PimStream as PimStream
    from opbyte.devices.dram.pim import run_stream as run_stream
    from opbyte.devices.dram.pim import stream_of as stream_of
    from opbyte.devices.dram.spec import DramSpec as DramSpec
    from opbyte.devices.dram.spec import load_memory as load_memory
    from opbyte.devices.link import LinkModel as LinkModel
    from opbyte.devices.published import PipelineEngine as PipelineEngine
    from opbyte.devices.published import StreamEngine as StreamEngine
    from opbyte.devices.published import stream_s as stream_s
    from opbyte.devices.spec import DeviceSpec as DeviceSpec
    from opbyte.devices.spec import SystemSpec as SystemSpec

__all__, __getattr__ = declared(__name__, __file__)
