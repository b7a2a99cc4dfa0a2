"""The commands of `python -m service`: what would be served here and why not, before it is."""
