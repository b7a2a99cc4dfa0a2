"""The registry: which versions of the models exist, and which are loaded."""
