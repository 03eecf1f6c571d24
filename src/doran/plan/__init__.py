"""What a run will cost, said before it starts: parameters, tokens, FLOPs, memory and seconds. No torch."""
