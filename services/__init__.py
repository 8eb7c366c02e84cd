"""The local services: what runs on this machine, how it is started, watched and stopped. All on 127.0.0.1."""
