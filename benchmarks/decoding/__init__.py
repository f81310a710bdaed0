"""What `python -m benchmarks.decode` measures, an idea a file."""
