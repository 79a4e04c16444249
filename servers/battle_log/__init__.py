"""What makes battle.py lose nothing: a journal on disk and one delivery in order from it."""
