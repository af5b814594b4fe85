"""What a camera is, the process that captures it, and how its frames come in. Begin with intake.py."""
