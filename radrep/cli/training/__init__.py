"""The commands that run or plan the recipe of a training."""
