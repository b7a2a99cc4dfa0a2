"""What one GPU does with the served graphs, and how much of it the service makes use of: `make bench-gpu`."""
