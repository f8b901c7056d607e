"""Thin servicers, one module per gRPC service."""
