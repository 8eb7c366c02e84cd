"""The router in front of the model servers: spreads load, and tries a new version beside the served one."""
