"""What runs offline: data, training, export and evaluation. The only package that knows torch."""
