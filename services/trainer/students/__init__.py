"""Where a base student comes from: a folder, the hub, or made of the teacher. May import distillation and models."""
