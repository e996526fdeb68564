"""Side-by-side measurements of whole runs; see README.md."""
