"""Content-addressed article revisions, served as of any moment."""
