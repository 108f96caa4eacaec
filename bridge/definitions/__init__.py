"""The language of provider definitions: where files are found, their keys, their expressions, and what is wrong with one."""
