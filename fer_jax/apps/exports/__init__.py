"""Export formats of a trained network: StableHLO and ONNX, which run without fer_jax, and safetensors."""
