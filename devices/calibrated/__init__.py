"""Calibrated kernel models: time from a shape, a device's constants and few fitted parameters.

One module per kernel family registers a :class:`~.family.Family`. Its scalar kernel
``seconds(p, h, x)`` is the only definition of the formula: the fit, `CalibratedModel` and the
compiled path of the simulator all call it.
"""
