"""Why compiled steps return."""

AGAIN, REACHED, LOG_FULL, STUCK, GOAL = range(-1, 4)
"""They do not yet; time reached; log to be emptied; a bug; as many completions as asked for. After the second and
fourth the caller comes back."""

RESTS, RESTING = 17, -2
"""All requests known to the engine have arrived, and more are to come (`serving.growing`); what is asked for instead
of a number of completions where it is to rest then."""

GO = -2
"""Of what comes before a step: that step is next."""
