"""What is learnt, from which batches: the losses, the collator, TRL's trainer on a stream."""
