"""The language of provider definitions: its keys, its expressions, and what is wrong with a file."""
