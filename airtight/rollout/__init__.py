"""Rollouts on the ground floor: which releases are under way, what their arms did, and the rules that decide."""
