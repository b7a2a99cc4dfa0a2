"""Load tests: five commands, a folder each, and what they share: questions, servers, an open loop, histograms."""
