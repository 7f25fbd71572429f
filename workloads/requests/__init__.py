"""Requests: when they arrive, how long they are, and which prompt blocks they share."""

from .arrivals import ARRIVALS
from .block import MAX_BLOCK, PREFIX_BLOCK_TOKENS, HashIds, RequestBlock, RequestStream, Turns
from .formats import FORMATS, request_format
from .front import open_requests
from .lengths import LENGTHS
from .rows import Rows

__all__ = [
    "ARRIVALS", "FORMATS", "LENGTHS", "MAX_BLOCK", "PREFIX_BLOCK_TOKENS", "HashIds",
    "RequestBlock", "RequestStream", "Rows", "Turns", "open_requests", "request_format",
]  # fmt: skip
