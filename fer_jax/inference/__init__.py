"""Inference with trained models: loading, prediction on images, saliency maps and quantization."""
