"""What happens when: recipes, their graph, and the session that runs them."""
