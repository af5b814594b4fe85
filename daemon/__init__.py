"""What runs on the line: frames in, verdicts out. Needs no torch and does not know how a bundle was made."""
