"""Crop the handwritten digit out of a grey picture, in the form of MNIST's digits.

The steps separate the digit from frames, ruled paper, shadows, table edges and uneven light. `crops.py` runs them in
this order:

1. `contrast.py`: how much darker each pixel is than its surroundings (black-hat transform).
2. `lines.py`: remove straight lines that run through the picture, and keep the strokes that cross them.
3. `strokes.py`: choose the connected strokes that form the digit.
4. `mnist.py`: scale them into a box of 20x20, with the centre of mass in the middle of 28x28 (LeCun et al., 1998).

The steps find dark ink, and light ink in the inverted picture. If the picture does not show which of the two is the
digit, both crops go to the network, and its confidence decides.
"""
