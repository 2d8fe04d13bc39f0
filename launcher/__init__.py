"""The command line and the processes behind it: environment, Triton installation, supervision, rendered repositories."""
