"""What a training will take: its epochs beforehand, the seconds of its steps, the sum of both."""
