"""Times of one kernel under one configuration of tiles, stages and warps: the model below the calibrated families.

*(kernel, shape, configuration, machine) -> seconds, terms, bound*, in closed form and without a run on
the device. It ranks configurations; simulations use the calibrated families for the costs of ops.
"""
