"""The model server: TensorFlow Serving's REST and gRPC contract, in Python, for SavedModels."""
