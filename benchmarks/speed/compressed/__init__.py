"""How fast compressed models are beside the rivals' own int8, and beside float32."""
