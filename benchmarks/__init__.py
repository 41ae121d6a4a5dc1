"""Measurements behind the figures in the README; each prints ratios or medians, none is a test."""
