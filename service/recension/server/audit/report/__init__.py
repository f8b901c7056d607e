"""What a licensee was served in a month, and what became of it: as JSON, and as a page that prints."""
