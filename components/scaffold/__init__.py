"""Looks at data, and writes the folder of a pipeline that learns from them (`make new`, `commands.new`)."""
