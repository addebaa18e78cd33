"""What training costs: multiply-accumulates by formula, by the paper's method, and measured seconds."""
