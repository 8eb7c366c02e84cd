"""Flight delays: a new version of the model on live requests, before it takes over."""
