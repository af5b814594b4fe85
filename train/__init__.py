"""From good parts to a run: the frozen teacher, its two students, their training and their evaluation."""
