"""A report on a data set before anything is encoded: what is there, broken, repeated, and what gives labels away."""
