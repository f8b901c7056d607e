"""From a file to events that are ready for the log: parsed, hashed and sealed beside the writer."""
