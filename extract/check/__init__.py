"""A report on a data set before anything is encoded: what is there, what is broken, what repeats, what gives labels away."""
