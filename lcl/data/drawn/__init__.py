"""How scenes are drawn: the picture dictionary, its colours, and the captions that say what is shown."""
