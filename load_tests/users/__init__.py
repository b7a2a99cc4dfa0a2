"""`make load`: users of every task for Locust, how many there are as time goes on, and what a run is held to."""
