"""Pictures and rasters: OME-TIFF, RGB TIFF, PNG overlays, figures."""
