"""One LoRA layer: fused, with the gradients of single samples where differential privacy needs them."""
