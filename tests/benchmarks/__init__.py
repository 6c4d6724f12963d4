"""Measurements, run by ``make bench``. They report and never assert: a time depends on the machine."""
