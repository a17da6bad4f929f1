"""Models that were trained elsewhere: their files read as data, their network checked."""
