"""The study of label correction: which labelling trains the best reward model, in which regime of noise."""
