"""How good a model's saliency maps are: evaluation of one model, comparison of several."""
