"""Convert frozen TensorFlow.js graph models to ONNX."""
