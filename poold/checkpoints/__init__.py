"""Generations on their way between hosts."""
