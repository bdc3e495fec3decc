"""What the MONAI Label app is made of; `main.py` only wires it."""
