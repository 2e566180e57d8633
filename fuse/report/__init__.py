"""Shows an evaluation; computes nothing."""
