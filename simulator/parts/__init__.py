"""Parts of a serving engine or a fleet, a package each: what one has is found in one place."""
