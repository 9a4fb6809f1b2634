"""Media files to training data: ingest, then encode."""
