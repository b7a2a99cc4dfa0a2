"""Sentiment of film reviews: a recurrent network beside a linear model on words and bigrams."""
