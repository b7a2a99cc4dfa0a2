"""`make knee`: the highest rate of requests at which answers still come in time."""
