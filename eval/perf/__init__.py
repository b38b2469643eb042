"""How fast: benches that print figures with the machine they were taken on; each is run as a module."""
