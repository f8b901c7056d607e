"""The operator's process: servicers, interceptors and wiring."""
