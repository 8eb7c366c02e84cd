"""`make new`: looks at data, and writes the folder of a pipeline that learns from them."""
