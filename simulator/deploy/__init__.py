"""A model on a system: layout, placement, the programs of its devices."""
