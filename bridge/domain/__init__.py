"""What things are and what the rules say.

Pure: no I/O, reads no clock, imports nothing else of ours. Every other room may import this one.
"""
