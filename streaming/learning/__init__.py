"""Learning from the labels of a declared stream as they come: predict, then learn; of any pipeline."""
