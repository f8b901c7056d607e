"""The licensee's side: client, verifier, lockfile and loaders."""
