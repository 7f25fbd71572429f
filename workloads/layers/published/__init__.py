"""Layer kinds that single papers use, registered like any other kind."""
