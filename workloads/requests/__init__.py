"""Requests: when they arrive, how long they are, and which prompt blocks they share. Names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared

if TYPE_CHECKING:
    from opbyte.workloads.requests.arrivals import ARRIVALS as ARRIVALS
    from opbyte.workloads.requests.block import MAX_BLOCK as MAX_BLOCK
    from opbyte.workloads.requests.block import PREFIX_BLOCK_TOKENS as PREFIX_BLOCK_TOKENS
    from opbyte.workloads.requests.block import HashIds as HashIds
    from opbyte.workloads.requests.block import RequestBlock as RequestBlock
    from opbyte.workloads.requests.block import RequestStream as RequestStream
    from opbyte.workloads.requests.block import Turns as Turns
    from opbyte.workloads.requests.formats import FORMATS as FORMATS
    from opbyte.workloads.requests.formats import request_format as request_format
    from opbyte.workloads.requests.front import open_requests as open_requests
    from opbyte.workloads.requests.lengths import LENGTHS as LENGTHS
    from opbyte.workloads.requests.rows import Rows as Rows

__all__, __getattr__ = declared(__name__, __file__)
