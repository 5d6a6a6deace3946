"""What a person looks at: heatmaps."""
