"""The study of label correction: it compares the reward models that different labelings train, by regime of noise."""
