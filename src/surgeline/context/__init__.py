"""What is known: typed facts, appended by stages and persisted; the only channel between stages."""
