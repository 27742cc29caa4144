"""A prediction as other libraries hold it: tables, SpatialData, QuPath's GeoJSON, LazySlide's tiles."""
