"""The flagship: will a flight arrive more than 15 minutes late, and how sure is that."""
