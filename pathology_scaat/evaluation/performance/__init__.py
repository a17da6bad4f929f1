"""How well slides and patients are told apart, with the numbers that clinical papers give."""
