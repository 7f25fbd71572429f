"""Electric power of GPU products: a physical model, its fit, and how it carries over."""
