"""Figures from the warehouse as one HTML page for people."""
