"""One file per family of routes; each reads a request, admits it, asks Triton and answers."""
