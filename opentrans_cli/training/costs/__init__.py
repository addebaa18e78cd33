"""What training costs: multiply-accumulates by formula, as the paper counts them, and seconds by the clock."""
