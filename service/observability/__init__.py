"""What is counted, timed and told."""
