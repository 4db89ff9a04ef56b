"""The prompt in which a teacher's query likelihood is read: after a passage, a search that finds it.

The method is that of Sachan et al. 2022, "Improving Passage Retrieval with Zero-Shot Question Generation". The trainer
reads likelihoods in it, and generation's `/rerank`: a weight that one of them chooses holds in the other.
"""

OPENING = (
    'Text: "The museum opens at nine and closes at five, and children under twelve pay nothing."\n'
    'A search that finds this text: "opening hours and prices of the museum"\n\nText: "'
)
"""An example, and what comes before the passage."""
BETWEEN = '"\nA search that finds this text: "'
"""What comes between the passage and the query."""
CLOSING = '"'
"""What comes after the query; its likelihood counts with the query's: it says that the query ends there."""
NEUTRAL = "It was a nice day and people went for a walk."
"""A passage of which nothing is to be learnt about any query."""
