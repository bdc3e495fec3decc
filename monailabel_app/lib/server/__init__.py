"""What the app puts in the place of MONAI Label's own routes, and beside them."""
