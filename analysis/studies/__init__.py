"""Many simulations for one answer: capacity, sweeps, Pareto fronts."""
