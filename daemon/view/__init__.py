"""A page in the browser that shows a line: a small process that is itself only a subscriber (dualkd-view)."""
