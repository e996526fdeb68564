"""What a binding is and what may be done with it: pure functions, no clock, no network, no database."""
