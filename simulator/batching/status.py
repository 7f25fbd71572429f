"""Why compiled steps return."""

from enum import IntEnum

Status = IntEnum("Status", "AGAIN REACHED LOG_FULL STUCK GOAL", start=-1)
"""Not yet; time reached; log full; a bug; requested completions reached. After the second and fourth the caller
returns."""

RESTS, RESTING = 17, -2
"""All requests known to the engine have arrived, and more are to come (`serving.growing`); what is asked for instead
of a number of completions where it is to rest then."""

GO = -2
"""Result of the preparations of a step: that step is next."""
