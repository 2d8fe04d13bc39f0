"""Speech: from encoded bytes to log-mel features, and from those to text."""
