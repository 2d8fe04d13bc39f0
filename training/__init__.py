"""Training code of the bundled demo models; nothing at serving time imports it."""
