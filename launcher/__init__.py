"""The command line and the processes behind it: environment, Triton, supervision, rendered repositories."""
