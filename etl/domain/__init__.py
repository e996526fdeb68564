"""What a binding is, and what may be done with it.

Pure functions, without clock, network or database.
"""
