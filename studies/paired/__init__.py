"""Trainings of several models that share data and seeds, and are compared point by point."""
