"""The built-in pool `local`: SmolLM2-135M-Instruct, LoRA specialists on it, their tasks, training and measurement."""
