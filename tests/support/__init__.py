"""What several test files share, and scripts that need a checkpoint."""
