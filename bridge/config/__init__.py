"""Configuration: the operator's file, environment and command line, checked and frozen.

Only the daemon and the command line read it; the other rooms receive plain values. It opens the
file and the secrets that the file names, and never writes, except for `init_config`.
"""
