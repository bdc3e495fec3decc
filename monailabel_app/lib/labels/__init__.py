"""Labels that people send: accepted or refused, and where they came from."""
