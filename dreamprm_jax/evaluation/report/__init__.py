"""The report: one self-contained HTML file, and the plots next to it."""
