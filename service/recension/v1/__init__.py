"""Generated from protos/recension/v1; nothing here is written by hand."""
