"""Maps work units over worker processes, with a journal that makes runs resumable."""
