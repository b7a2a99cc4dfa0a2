"""Models on disk become warm sessions, and many requests become few runs."""
