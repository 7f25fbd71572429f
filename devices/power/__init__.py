"""Electric power of GPU products: a physical model, its fit, and its transfer to other devices."""
