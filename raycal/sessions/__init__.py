"""Recordings: what one is, how files become one, how it is split, prepared and cut into windows."""
