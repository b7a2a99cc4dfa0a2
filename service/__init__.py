"""What runs in production: bytes in, predictions out. Never imports torch."""
