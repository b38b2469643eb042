"""What a query needs: annotators, the skill index, embedders and skill families."""
