"""Maps work units over processes with a journal: kill it anywhere, run it again."""
