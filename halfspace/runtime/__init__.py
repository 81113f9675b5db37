"""What holds below all else, of the standard library alone: interrupts, locks, progress."""
