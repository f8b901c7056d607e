"""The command ``recension``: what a licensee does at a terminal and in scripts."""
