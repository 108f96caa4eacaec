"""The things and the rules.

Pure: no I/O, reads no clock, imports nothing else of ours. Every other room may import this one.
"""
