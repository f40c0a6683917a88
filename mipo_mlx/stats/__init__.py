"""Intervals and tests with users as clusters, in float64."""
