"""What a recipe needs and how long it takes, before anything is downloaded or trained."""
