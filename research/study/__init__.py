"""The study of label correction: which labeling trains the best reward model, in which regime of noise."""
