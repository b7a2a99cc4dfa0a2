"""Load tests: the benchmark against the ceiling and against other servers."""
