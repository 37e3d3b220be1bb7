"""Who does the work: processes of this machine, or actors of a Ray cluster."""
