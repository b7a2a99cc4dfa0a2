"""Crop the handwritten digit out of a grey picture, as MNIST's authors cropped theirs.

Frames, ruled paper, shadows, table edges and uneven light are told from the digit. `crops.py` has the steps in order:

1. `contrast.py`: how much darker each pixel is than its surroundings (black-hat transform).
2. `lines.py`: remove straight lines that run through the picture, and keep the strokes that cross them.
3. `strokes.py`: choose the connected strokes that form the digit.
4. `mnist.py`: scale them into a box of 20x20, with the centre of mass in the middle of 28x28 (LeCun et al., 1998).

The steps look for dark ink; on the inverted picture they find light ink. If the picture does not show which of the two
is the digit, both crops go to the network and its confidence decides.
"""
