"""When to train again, without being asked."""
