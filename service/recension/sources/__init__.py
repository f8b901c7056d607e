"""One parser per input format, each turning bytes into events."""
