"""The audit log: who had which version of a model do what, when and why, in a chain that shows what was changed."""
