"""The spaces raycal ships; `--list-spaces` shows them. A new one is one new file here."""
