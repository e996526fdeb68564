"""The same figures as a terminal table, markdown and a picture."""
