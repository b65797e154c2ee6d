"""Nets: U-Net, autoencoders, text encoders, discriminator."""
