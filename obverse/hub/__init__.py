"""Model cards of exported folders, and their upload to the Hugging Face hub."""
