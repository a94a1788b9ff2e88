"""Training on a mixture, over many seeds and gaps at once, and its gradients. Start with `train`."""
