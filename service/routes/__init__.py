"""One file an endpoint family; each exports a `router`."""
