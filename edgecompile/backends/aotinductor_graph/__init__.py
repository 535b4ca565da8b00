"""What the AOTInductor backend writes: the module with codes, its package, the file of tensors."""
