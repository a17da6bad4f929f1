"""Heads on features that an encoder has made already, kept in files: no pixels are read.

Importing the package costs no torch; the modules that compute are imported when they are needed.
"""
