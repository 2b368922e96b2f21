"""Say what an audit would see in a checkpoint, without reading a weight."""
