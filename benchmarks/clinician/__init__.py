"""A simulated clinician, and what `make demo-label` and the latency figures are made with."""
