"""Exchange with QuPath: GeoJSON, regions, class colours, and the way back."""
