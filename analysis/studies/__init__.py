"""Results of many simulations: capacity, sweeps, Pareto fronts."""
