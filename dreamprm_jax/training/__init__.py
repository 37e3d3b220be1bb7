"""Tokenise, pack, shard, train, checkpoint."""
