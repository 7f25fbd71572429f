"""Experts that move between memories: a cache of some of them, policies, predictors, tiers."""
