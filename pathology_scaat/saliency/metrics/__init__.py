"""Metrics of explanation quality: pure functions in ``functional``, streaming classes beside."""
