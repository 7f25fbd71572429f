"""Kinds of processors of single papers: CENT's banks, Stratum's tiers, AttAcc's tiled GPU."""
