"""Tables from outside: CSV, Parquet and JSON lines files, and tables of SQL databases, read in pieces."""

from components.data.sources.source import ReadReport, Rows, Source, read

__all__ = ["ReadReport", "Rows", "Source", "read"]
