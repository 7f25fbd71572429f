"""Which devices hold which experts, copies among them, and which copy serves a token."""
