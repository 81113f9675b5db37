"""What every device agrees on: layouts, formats, counters, segments, questions."""
