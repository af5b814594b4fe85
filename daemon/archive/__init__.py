"""Frames kept on disk: which (rule), where (names, index), how (store, writer), and how to get at them again.

A folder with index.sqlite, and a folder for each UTC day with its pictures. See writer.py for the daemon's
side, reader.py for everybody else's.
"""

from dualkd.daemon.archive.reader import ArchiveReader, Query
from dualkd.daemon.archive.writer import Archive

__all__ = ["Archive", "ArchiveReader", "Query"]
