"""Rollouts as the steps do them: switching the served version, and a release from its beginning to its end."""
