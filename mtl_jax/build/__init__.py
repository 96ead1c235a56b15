"""From a resolved config to what a run trains."""
