"""Pages of the site that are made from the library: methods, operations, charts, the map of the house, the API."""
