"""What to label next: strategies, who has which scan open, and how unlike scans are."""
