"""The report: one HTML file with everything in it, and the plots beside it."""
