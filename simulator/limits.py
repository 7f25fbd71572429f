"""Limits of a simulation, in a module without imports so that options can quote them."""

MAX_SEQUENCES = 65_536
"""Most sequences of one rank; each has a slot in every step."""
MAX_ADAPTERS = 65_536
"""Most adapters of tenants; every step looks at each."""
MAX_IMAGES = 1024
"""Most images of one request."""
MAX_REPLICAS = 65_536
"""Most copies of a system behind one router."""
MIN_MTBF_S = 1e-3
"""Failures closer than this have no meaning: a step of an engine takes about as long."""

MAX_MICRO_BATCHES = 16
"""Maximum micro-batches of a step with separate experts, equal to the maximum chunks of an overlapped one."""
