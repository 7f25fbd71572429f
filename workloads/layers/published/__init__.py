"""Layer kinds of one paper each; registered as any other."""
