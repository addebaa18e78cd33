"""analyze: the spectrum of every layer, its alpha, and which layers a fine-tuning freezes."""
