"""Pythae's samplers, seeded, and what is odd in them."""
