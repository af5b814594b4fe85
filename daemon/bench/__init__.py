"""dualkd-bench: how fast a bundle runs on this machine, and how fast it could run at most.

turns.py measures the daemon's own judge, ceilings.py the cores, report.py sets the two against the work of the
graph, plot.py draws it, command.py is the command.
"""
