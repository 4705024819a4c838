"""How jobs travel: one backend for each way."""
