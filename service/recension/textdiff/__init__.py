"""Comparing texts in bounded work; what comes of it are the values of ``model.difference``."""
