"""What a run knows of itself, as the documents that others ask for."""
