"""The causal 3D-convolution autoencoder."""
