"""Measurements, run by `scripts/bench`. Each prints one or more `Figure`s; none is a test."""
