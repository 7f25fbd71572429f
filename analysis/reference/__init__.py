"""What files take: their keys, JSON schemas for editors, and templates."""
