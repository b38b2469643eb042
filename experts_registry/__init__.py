"""Who can answer: pools of experts, their prices, their profiles and how these are fitted."""
