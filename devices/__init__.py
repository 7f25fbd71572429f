"""How long and how much energy an op takes: specs, rooflines, links."""
