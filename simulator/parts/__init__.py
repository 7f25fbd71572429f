"""Parts: features of a serving engine or a fleet, each in one package."""
