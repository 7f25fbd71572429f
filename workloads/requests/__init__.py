"""Requests: when they arrive, how long they are, and which prompt blocks they share. Names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._lazy import declared

if TYPE_CHECKING:
    from .arrivals import ARRIVALS as ARRIVALS
    from .block import MAX_BLOCK as MAX_BLOCK
    from .block import PREFIX_BLOCK_TOKENS as PREFIX_BLOCK_TOKENS
    from .block import HashIds as HashIds
    from .block import RequestBlock as RequestBlock
    from .block import RequestStream as RequestStream
    from .block import Turns as Turns
    from .formats import FORMATS as FORMATS
    from .formats import request_format as request_format
    from .front import open_requests as open_requests
    from .lengths import LENGTHS as LENGTHS
    from .rows import Rows as Rows

__all__, __getattr__ = declared(__name__, __file__)
