"""What happens between the optimizer steps, as callbacks of transformers' trainer."""
