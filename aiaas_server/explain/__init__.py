"""What a prediction stands on: Shapley values and occlusion, over any model."""
