"""The benchmark: scenarios as data, peers to compare with, and a report. Not part of the wheel."""
