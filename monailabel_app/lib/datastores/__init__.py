"""Where scans and labels lie."""
