"""Values, losses and figures of a run in TensorBoard, Weights & Biases or MLflow."""
