"""Python values to and from what travels: a skeleton (pickle) and buffers (the bytes of tensors and arrays)."""
