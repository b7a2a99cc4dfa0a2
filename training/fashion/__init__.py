"""Clothing: the generator of a class-conditional GAN, and the classifier that judges it."""
