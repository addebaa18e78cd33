"""analyze: the spectrum of every layer, its alpha, and which layers fine-tuning freezes."""
