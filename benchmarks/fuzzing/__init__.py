"""What `benchmarks/fuzz.py` throws at the pipeline, one kind of input a file."""
