"""The processes of a server: a supervisor and the workers that it keeps running."""
