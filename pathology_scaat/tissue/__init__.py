"""Where on a slide the tissue is."""
