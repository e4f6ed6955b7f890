"""How precisely single features detect concepts, beside neurons and other directions."""
