"""Tokenize, pack, shard, train, checkpoint."""
