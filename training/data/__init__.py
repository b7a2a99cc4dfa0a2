"""Published data sets: where each comes from and how its files become arrays."""
