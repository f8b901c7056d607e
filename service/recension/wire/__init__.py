"""Between the model and its protobuf messages, both directions together."""
