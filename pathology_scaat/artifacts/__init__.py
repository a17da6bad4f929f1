"""What every artifact has: a fingerprint, a checksum, a status, and atomic publication."""
